# SPDX-License-Identifier: GPL-3.0-or-later
"""The role kserve with a Gateway: a model that answers through the Gateway API, served by the rehearsal's Contour."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest
import yaml

from rehearsal import toolchain
from rehearsal.progress import Progress
from rehearsal.standins.ngc import KEYS

pytestmark = pytest.mark.bare

NAMESPACE, NAME = "projectcontour", "models"
GROUP = "gateway.networking.k8s.io"
LISTENER = {"name": "http", "protocol": "HTTP", "port": 8088, "allowedRoutes": {"namespaces": {"from": "All"}}}
GATEWAY = [
    {
        "apiVersion": f"{GROUP}/v1",
        "kind": "GatewayClass",
        "metadata": {"name": "contour"},
        "spec": {"controllerName": "projectcontour.io/gateway-controller"},
    },
    {
        "apiVersion": f"{GROUP}/v1",
        "kind": "Gateway",
        "metadata": {"name": NAME, "namespace": NAMESPACE},
        "spec": {"gatewayClassName": "contour", "listeners": [LISTENER]},
    },
]
SERVICE = {
    "name": "llama3-8b-instruct",
    "image": "nvcr.io/nim/meta/llama3-8b-instruct:1.0.0",
    "gpus": 0,
    "cpu": "100m",
    "memory": "256Mi",
    "share_memory": "64Mi",
    "pre_stop_sleep": 1,
    "timeout": 5,
    "cache": {"claim": "nim-model", "size": "1Gi"},
}


@pytest.fixture
def gateway(bare, until):
    folder = toolchain.build(bare.layout, Progress(), "gateway-api").folders["gateway-api"]
    files = [f"--filename={path}" for path in (folder / "experimental").glob("*_*.yaml")]
    rehearsal, config = (sys.executable, "-m", "rehearsal"), bare.layout.config / "contour.yaml"
    before = config.read_text()

    def contour(settings: str) -> None:
        config.write_text(settings)
        bare.run(*rehearsal, "stop", "contour")
        bare.run(*rehearsal, "start", "contour")

    bare.kubectl("apply", "--server-side", *files)
    until(lambda: f"gateways.{GROUP}" in bare.kubectl("api-resources", f"--api-group={GROUP}", "-o", "name"), "them")
    bare.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(GATEWAY))
    contour(before + yaml.safe_dump({"gateway": {"gatewayRef": {"namespace": NAMESPACE, "name": NAME}}}))
    # Envoy listens 8000 above the Gateway's port, which is left to a Service; here there is none
    service = (sys.executable, "-m", "rehearsal.standins.service", "127.0.0.1:8088", "127.0.0.1:16088")
    with bare.process(*service):
        yield
    contour(before)
    bare.kubectl("delete", "namespace/kserve", "--ignore-not-found")  # bare again, for whoever comes next
    bare.kubectl("delete", *files)


def ask(bare: Any, module: str, rc: int = 0, **options: Any) -> dict[str, Any]:
    """The result of one module, run in the cluster's network."""
    done = bare.run("ansible", "localhost", "-m", f"gpuops.nim.{module}", "-a", json.dumps(options), rc=rc)
    return yaml.safe_load(done.stdout.partition("=>")[2])


def test_a_model_answers_through_the_gateway(bare, gateway):
    said, _ = bare.kserve("--check", kserve_gateway="infra/models")
    assert "the cluster has no Gateway infra/models" in said
    said, _ = bare.kserve(kserve_gateway=f"{NAMESPACE}/{NAME}")
    assert "no Gateway" not in said
    model = {"nim_predictor_services": [SERVICE], "nim_predictor_ngc_api_key": KEYS["valid"]}
    try:
        said, _ = bare.role("nim_predictor", **model)
        assert "asking meta/llama3-8b-instruct through the ingress" in said
        assert not bare.get("ingress", "-A")["items"]
        route = bare.get("httproute", SERVICE["name"], "-n", "default")
        (parent,) = route["status"]["parents"]
        assert {each["type"]: each["status"] for each in parent["conditions"]}["Accepted"] == "True"

        host = "llama3-8b-instruct-default.example.com"
        answer = ask(bare, "nim_chat", name=SERVICE["name"], namespace="default")
        assert (answer["via"], answer["url"]) == ("ingress", "http://127.0.0.1:8088/v1/chat/completions")
        long = {"prompt": "word " * 4000, "max_tokens": 4000}
        late = ask(bare, "nim_chat", rc=2, name=SERVICE["name"], namespace="default", **long)
        assert "broke off" in late["msg"]  # it streamed, and the route's time was over
        (service,) = ask(bare, "nim_service_info", namespaces=["default"])["services"]
        assert (service["url"], service["address"]) == (f"http://{host}", "127.0.0.1:8088")
        said, counts = bare.role("nim_predictor", **model)
        assert counts["changed"] == 0, said
    finally:
        bare.role("nim_predictor", nim_predictor_state="absent", nim_predictor_keep_cache=False, **model)
        bare.kserve(kserve_state="absent", kserve_delete_inference_services=True)
    assert not bare.get("httproute", "-A")["items"]
