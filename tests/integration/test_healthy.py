# SPDX-License-Identifier: GPL-3.0-or-later
"""Nothing is found wrong with services in good order, in any state between nothing, ready, changed and gone."""

from __future__ import annotations

import threading
import time

import pytest

from ansible_collections.gpuops.nim.plugins.module_utils._kube.auth import connect
from ansible_collections.gpuops.nim.plugins.module_utils._ops.inspect import inspect
from rehearsal.layout import Layout, url
from rehearsal.standins.ngc import KEYS

pytestmark = pytest.mark.rehearsal

LAYOUT = Layout.from_environment()
LLAMA_3, LLAMA_3_1 = "nvcr.io/nim/meta/llama3-8b-instruct", "nvcr.io/nim/meta/llama-3.1-8b-instruct"
SLOW = {"NIM_STANDIN_LOAD_SECONDS": "4"}
SMALL = {"cpu": "50m", "memory": "128Mi", "share_memory": "16Mi", "gpus": 0, "env": SLOW, "wait_timeout": 120}
SERVICES = (
    {"name": "first", "image": f"{LLAMA_3}:1.0.0", "gpus": 1, "cache": {"claim": "models", "size": "1Gi"}},
    {"name": "later", "image": f"{LLAMA_3_1}:1.3.0", "enable_prometheus": True},
    {"name": "second", "image": f"{LLAMA_3_1}:2.0.12", "endpoint_host": "second.example.com"},
)


class Watcher(threading.Thread):
    """Looks at the services of a namespace about twice a second, as nim_service_info does."""

    def __init__(self, namespace: str) -> None:
        super().__init__(daemon=True)
        self.client = connect({"kubeconfig": str(LAYOUT.kubeconfig)})
        self.namespace = namespace
        self.over = threading.Event()
        self.states: set[str] = set()
        self.found: dict[str, list[str]] = {}
        self.looks = 0
        self.error: Exception | None = None

    def run(self) -> None:
        begun = time.monotonic()
        while not self.over.wait(0.3):
            try:
                services = inspect(self.client, [self.namespace])
            except Exception as error:
                self.error = error
                return
            self.looks += 1
            for service in services:
                self.states.add(service.state)
                for finding in service.findings:
                    at = f"after {time.monotonic() - begun:.1f} s, {service.state}: {service.detail}"
                    self.found.setdefault(f"{service.name}: {finding.id}/{finding.variant}", []).append(at)


@pytest.fixture
def watched(new_namespace):
    watcher = Watcher(new_namespace("healthy"))
    watcher.start()
    yield watcher
    watcher.over.set()
    watcher.join()


def test_nothing_is_found_wrong_with_healthy_services(play, watched):
    def kserve(*services, **options):
        ingress = url("ingress").removeprefix("http://")
        options = {"namespace": watched.namespace, "services": list(services), "ingress_address": ingress, **options}
        return {"gpuops.nim.nim_kserve": {**SMALL, **options}}

    def all_with(**options):
        return kserve(*({**service, **options} for service in SERVICES))

    newer = {**SERVICES[0], "image": f"{LLAMA_3}:1.0.3"}
    play(
        {"gpuops.nim.nim_secret": {"namespace": watched.namespace, "ngc_api_key": KEYS["valid"]}},
        all_with(),
        kserve(newer, update_strategy="in_place"),
        kserve(SERVICES[0], *SERVICES[1:], update_strategy="surge", env={**SLOW, "A": "1"}),
        all_with(min_replicas=2, max_replicas=2),
        all_with(),
        kserve(*({"name": service["name"]} for service in SERVICES), state="stopped"),
        all_with(),
        kserve(*({"name": service["name"]} for service in SERVICES), state="absent"),
    )
    watched.over.set()
    watched.join()
    assert watched.error is None
    assert watched.found == {}
    assert watched.states >= {"scheduling", "loading", "ready", "stopped"}
    assert watched.looks > 20
