# SPDX-License-Identifier: GPL-3.0-or-later
"""The role kserve: KServe's published manifests on a cluster that has none."""

from __future__ import annotations

import base64
import json
import ssl

import pytest
import yaml

from tests.e2e.conftest import IMAGES

pytestmark = pytest.mark.bare


@pytest.fixture(scope="module")
def role(bare):
    """`role("--check", kserve_upgrade=True)`: the role on a bare cluster with what that has."""
    yield bare.kserve
    bare.kserve(kserve_state="absent", kserve_delete_inference_services=True)


def service(name="quick", **spec):
    container = {"name": "kserve-container", "image": "gpuops.nim/pause:1", "imagePullPolicy": "IfNotPresent"}
    container["command"] = ["/pause"]
    return yaml.safe_dump(
        {
            "apiVersion": "serving.kserve.io/v1beta1",
            "kind": "InferenceService",
            "metadata": {"name": name, "namespace": "default"},
            "spec": {"predictor": {"containers": [container], **spec}},
        }
    )


def controller(bare):
    return bare.get("deployment", "kserve-controller-manager", "-n", "kserve")


def test_from_nothing_to_a_webhook_that_answers(bare, role, until):
    said, counts = role("--check", "--diff")
    assert counts["changed"] == 1
    assert "kserve-controller-manager" in said
    assert not bare.kubectl("get", "namespace", "kserve", "--ignore-not-found")

    said, _ = role()
    assert "KServe 0.20.0, mode Standard: installed" in said
    images = [each["image"] for each in controller(bare)["spec"]["template"]["spec"]["containers"]]
    assert images == [f"{IMAGES}/kserve/kserve-controller:v0.20.0", f"{IMAGES}/brancz/kube-rbac-proxy:v0.18.0"]
    crds = bare.kubectl("get", "crd", "-o", "name")
    assert "inferenceservices.serving.kserve.io" in crds
    assert "llminference" not in crds

    bare.kubectl("apply", "-f", "-", stdin=service())
    made = until(lambda: bare.kubectl("get", "deployment", "quick-predictor", "--ignore-not-found"), "its Deployment")
    assert made
    status = until(
        lambda: bare.get("isvc", "quick").get("status"), "what KServe says of it, after it made the Deployment"
    )
    assert status["deploymentMode"] == "Standard"
    with pytest.raises(AssertionError, match="denied the request"):  # the webhook's own words
        bare.kubectl("apply", "-f", "-", stdin=service("bad", minReplicas=3, maxReplicas=1))

    for modes in ((), ("--check",)):
        said, counts = role(*modes)
        assert counts["changed"] == 0
        assert "unchanged" in said


def test_its_certificate_is_renewed_before_it_is_too_late(bare, role):
    secret = bare.get("secret", "kserve-webhook-server-cert", "-n", "kserve")["data"]
    pem = base64.b64decode(secret["tls.crt"]).decode()
    bundle = bare.get("mutatingwebhookconfiguration", "inferenceservice.serving.kserve.io")["webhooks"]
    assert {each["clientConfig"]["caBundle"] for each in bundle} == {secret["ca.crt"]}
    ssl.create_default_context(cadata=pem)
    # one that does not fit any more, as after its time
    bare.kubectl(
        "patch", "secret", "kserve-webhook-server-cert", "-n", "kserve", "-p", json.dumps({"data": {"tls.key": ""}})
    )
    said, counts = role(kserve_adopt=True)
    assert counts["changed"] == 1, said
    renewed = bare.get("secret", "kserve-webhook-server-cert", "-n", "kserve")["data"]
    assert renewed["tls.crt"] != secret["tls.crt"]
    assert pem in base64.b64decode(renewed["ca.crt"]).decode()  # pods may have the old one for a minute more
    assert base64.b64decode(renewed["tls.key"]).decode().splitlines()[1] not in said


def test_settings_reach_the_controller(bare, role):
    before = controller(bare)["spec"]["template"]["metadata"]["annotations"]
    _, counts = role(kserve_ingress_domain="models.example.org", kserve_metrics_proxy=False)
    assert counts["changed"] == 1
    config = bare.get("configmap", "inferenceservice-config", "-n", "kserve")["data"]
    ingress = json.loads(config["ingress"])
    assert (ingress["ingressDomain"], ingress["ingressClassName"]) == ("models.example.org", "contour")
    assert json.loads(config["deploy"]) == {"defaultDeploymentMode": "Standard"}
    assert json.loads(config["storageInitializer"])["image"] == f"{IMAGES}/kserve/storage-initializer:v0.20.0"
    after = controller(bare)["spec"]["template"]
    assert after["metadata"]["annotations"] != before  # it reads some of it only when it starts
    assert [each["name"] for each in after["spec"]["containers"]] == ["manager"]


def test_it_never_takes_services_with_it_unless_told(bare, role):
    said, _ = role(kserve_state="absent", rc=2)
    assert "default/quick" in said
    assert bare.kubectl("get", "isvc", "quick")
    assert controller(bare)

    said, counts = role("--check", kserve_state="absent", kserve_delete_inference_services=True)
    assert counts["changed"] == 1
    assert bare.kubectl("get", "isvc", "quick")

    role(kserve_state="absent", kserve_delete_inference_services=True)
    left = bare.kubectl(
        "get", "crd,clusterrole,validatingwebhookconfiguration,mutatingwebhookconfiguration", "-o", "name"
    )
    assert "kserve" not in left
    assert not bare.kubectl("get", "deployment,service,secret", "-n", "kserve", "-o", "name")
    assert not bare.kubectl("get", "deployment", "quick-predictor", "--ignore-not-found")
    assert bare.kubectl("get", "namespace", "kserve")  # somebody may have put something in it
    _, counts = role(kserve_state="absent")
    assert counts["changed"] == 0


def test_cert_manager_is_asked_for_the_certificate_where_it_is(bare, role, until):
    """Its kinds alone; nobody acts on them, so the controller waits for its certificate."""
    kinds = {"Certificate": "certificates", "Issuer": "issuers"}
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    for kind, plural in kinds.items():
        names = {"kind": kind, "plural": plural, "singular": kind.lower()}
        crd = {
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": f"{plural}.cert-manager.io"},
            "spec": {"group": "cert-manager.io", "scope": "Namespaced", "names": names, "versions": [version]},
        }
        bare.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(crd))
    until(lambda: "issuers" in bare.kubectl("api-resources", "--api-group=cert-manager.io", "-o", "name"), "them")
    role(kserve_wait_timeout=0)
    certificate = bare.get("certificates.cert-manager.io", "serving-cert", "-n", "kserve")["spec"]
    assert certificate["secretName"] == "kserve-webhook-server-cert"
    assert certificate["issuerRef"] == {"kind": "Issuer", "name": "selfsigned-issuer"}
    assert bare.get("issuers.cert-manager.io", "selfsigned-issuer", "-n", "kserve")
    webhook = bare.get("mutatingwebhookconfiguration", "inferenceservice.serving.kserve.io")
    assert webhook["metadata"]["annotations"]["cert-manager.io/inject-ca-from"] == "kserve/serving-cert"
    assert not any("caBundle" in each["clientConfig"] for each in webhook["webhooks"])
    assert not bare.kubectl("get", "secret", "kserve-webhook-server-cert", "-n", "kserve", "--ignore-not-found")
    role(kserve_state="absent")
    assert not bare.get("certificates.cert-manager.io", "-n", "kserve")["items"]
    bare.kubectl("delete", "crd", *(f"{plural}.cert-manager.io" for plural in kinds.values()))


def test_an_upgrade_is_one_step_and_only_when_asked_for(bare, role):
    role(release="v0.19.0", kserve_wait_timeout=0)  # its images are not there
    said, counts = role()
    assert counts["changed"] == 0
    assert "KServe 0.19.0 stays as it is" in said.replace("\n", " ")
    said, _ = role(kserve_upgrade=True)
    assert "KServe 0.20.0, mode Standard: upgraded" in said
    said, _ = role(release="v0.19.0", kserve_upgrade=True, rc=2)
    assert "a downgrade to 0.19.0 is not supported" in said.replace("\n", " ")


def test_the_download_is_the_published_file_or_nothing(bare, role, tmp_path):
    published = (bare.manifests("v0.20.0") / "kserve.yaml").read_bytes()
    (tmp_path / "kserve.yaml").write_bytes(published + b"# changed\n")
    cache = tmp_path / "cache"
    with bare.serving(tmp_path) as url:
        ours = {"kserve_manifests_url": f"{url}/kserve.yaml", "kserve_cache": str(cache)}
        ours |= {"kserve_image_registry": IMAGES, "kserve_ingress_class": "contour"}
        said, _ = bare.role("kserve", rc=2, **ours)
        assert "checksum" in said
        (tmp_path / "kserve.yaml").write_bytes(published)
        _, counts = bare.role("kserve", **ours)
        assert counts["changed"] == 0
    assert (cache / "kserve-0.20.0.yaml").read_bytes() == published
    bare.role("kserve", **ours)  # the mirror is gone, and the file is there


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"kserve_version": "0.14.0"}, ("kserve_version", "0.20.0")),
        ({"kserve_certificates": "cert_manager"}, ("certificates", "self_signed")),
        ({"kserve_gateway": "models"}, ("gateway", "namespace/name")),
        ({"kserve_gateway": "infra/models"}, ("gateway", "Gateway API")),
        ({"kserve_manifests": "/nowhere/kserve.yaml"}, ("manifests", "/nowhere/kserve.yaml")),
    ],
)
def test_what_can_not_be_is_refused_before_anything_changes(bare, role, variables, words):
    before = controller(bare)["metadata"]["resourceVersion"]
    said, _ = role(rc=2, **variables)
    for word in words:
        assert word in said
    assert controller(bare)["metadata"]["resourceVersion"] == before
