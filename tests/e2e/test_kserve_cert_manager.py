# SPDX-License-Identifier: GPL-3.0-or-later
"""The role kserve where cert-manager makes the webhook's certificate: its real controllers and CA injector."""

from __future__ import annotations

import pytest

from rehearsal import toolchain
from rehearsal.progress import Progress
from tests.e2e.test_kserve_role import service

pytestmark = [pytest.mark.bare, pytest.mark.slow]
CERTIFICATE = "certificates.cert-manager.io"


@pytest.fixture
def cert_manager(bare, until):
    folder = toolchain.build(bare.layout, Progress(), "cert-manager").folders["cert-manager"]
    bare.kubectl("apply", "--server-side", f"--filename={folder}/crds")
    until(lambda: CERTIFICATE in bare.kubectl("api-resources", "--api-group=cert-manager.io", "-o", "name"), "them")
    with bare.process(folder / "cert-manager", env={"KUBECONFIG": str(bare.layout.kubeconfig)}):
        yield
    bare.kubectl("delete", "namespace/kserve", "--ignore-not-found")  # bare again, for whoever comes next
    bare.kubectl("delete", f"--filename={folder}/crds")


def test_cert_manager_makes_the_certificate_and_it_goes_with_kserve(bare, cert_manager, until):
    said, _ = bare.kserve()
    assert "KServe 0.20.0, mode Standard: installed" in said
    conditions = bare.get(CERTIFICATE, "serving-cert", "-n", "kserve")["status"]["conditions"]
    assert {each["type"]: each["status"] for each in conditions} == {"Ready": "True"}
    secret = bare.get("secret", "kserve-webhook-server-cert", "-n", "kserve")
    assert secret["metadata"]["annotations"]["cert-manager.io/certificate-name"] == "serving-cert"
    for kind in ("mutating", "validating"):
        webhooks = bare.get(f"{kind}webhookconfiguration", "inferenceservice.serving.kserve.io")["webhooks"]
        assert {each["clientConfig"]["caBundle"] for each in webhooks} == {secret["data"]["ca.crt"]}

    bare.kubectl("apply", "-f", "-", stdin=service())
    until(lambda: bare.kubectl("get", "deployment", "quick-predictor", "--ignore-not-found"), "its Deployment")
    with pytest.raises(AssertionError, match="denied the request"):
        bare.kubectl("apply", "-f", "-", stdin=service("bad", minReplicas=3, maxReplicas=1))
    for modes in ((), ("--check",)):
        said, counts = bare.kserve(*modes)
        assert counts["changed"] == 0, said

    bare.kserve(kserve_state="absent", kserve_delete_inference_services=True)
    kinds = f"{CERTIFICATE},issuers.cert-manager.io,certificaterequests.cert-manager.io,secrets,deployments,services"
    assert not bare.kubectl("get", kinds, "-n", "kserve", "-o", "name")
    _, counts = bare.kserve(kserve_state="absent")
    assert counts["changed"] == 0
