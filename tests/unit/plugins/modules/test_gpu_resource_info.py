# SPDX-License-Identifier: GPL-3.0-or-later
"""What users see of gpu_resource_info, against an API server on loopback."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from ansible_collections.gpuops.nim.plugins.modules import gpu_resource_info
from ansible_collections.gpuops.nim.tests.unit.fake_apiserver import FakeApiServer

Run = Callable[..., dict[str, Any]]
SPACE, NAME = "nvidia-device-plugin", "nvidia-device-plugin"
LABELS = {"app": NAME}


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeApiServer]:
    for name in ("K8S_AUTH_KUBECONFIG", "KUBECONFIG"):
        monkeypatch.delenv(name, raising=False)
    with FakeApiServer() as server:
        yield server


@pytest.fixture
def run(run_module: Any, api: FakeApiServer) -> Run:
    def run(**options: Any) -> dict[str, Any]:
        return run_module(gpu_resource_info.main, host=api.url, api_key="token-of-the-tests", **options)[1]

    return run


def node(name: str, allocatable: int = 0, capacity: int | None = None) -> dict[str, Any]:
    amounts = {"allocatable": allocatable, "capacity": allocatable if capacity is None else capacity}
    status = {key: {"cpu": "8", "nvidia.com/gpu": str(amount)} for key, amount in amounts.items()}
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "status": status}


def plugin(up: int = 1, **labels: str) -> dict[str, Any]:
    volume = {"hostPath": {"path": "/var/lib/kubelet/device-plugins/"}}
    pod = {"containers": [{"name": "main", "image": "nvcr.io/nvidia/k8s-device-plugin:v0.20.0"}], "volumes": [volume]}
    status = {"desiredNumberScheduled": 1, "updatedNumberScheduled": 1, "numberAvailable": up, "observedGeneration": 9}
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": NAME, "namespace": SPACE, "labels": labels},
        "spec": {"selector": {"matchLabels": LABELS}, "template": {"spec": pod}},
        "status": status,
    }


def pod(on: str, ready: bool = True, **meta: Any) -> dict[str, Any]:
    status = {"conditions": [{"type": "Ready", "status": "True"}]} if ready else {}
    if not ready:
        state = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}}
        last = {"terminated": {"exitCode": 1, "reason": "Error"}}
        status["containerStatuses"] = [{"name": "main", "state": state, "lastState": last}]
    owners = [{"kind": "DaemonSet", "name": NAME}]
    metadata = {"name": f"plugin-{on}", "namespace": SPACE, "labels": LABELS, "ownerReferences": owners, **meta}
    spec = {"nodeName": on, "containers": [{"name": "main"}]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec, "status": status}


OF_PLUGIN = {"plugin_namespace": SPACE, "plugin_name": NAME}


def test_nobody_offers_anything(run: Run, api: FakeApiServer) -> None:
    api.put(node("cpu-1"))
    api.put(node("was-gpu", 0, 8))  # for five minutes after its plugin has gone
    result = run()
    assert result["owner"] is None
    assert result["nodes"] == [{"name": "was-gpu", "capacity": 8, "allocatable": 0, "expected": None, "reason": ""}]
    assert (result["runtime_classes"], result["node_feature_discovery"]) == ([], False)


def test_who_offers_gpus(run: Run, api: FakeApiServer) -> None:
    api.put(node("gpu-1", 8))
    assert run()["owner"] == {
        "name": "other",
        "evidence": "node gpu-1 has 8 nvidia.com/gpu, and no plugin is seen that offers them",
        "namespace": None,
        "release": None,
    }
    api.put(plugin(**{"app.kubernetes.io/managed-by": "gpuops.nim"}))
    ours = {"name": "gpuops.nim", "evidence": f"DaemonSet {SPACE}/{NAME}", "namespace": SPACE, "release": None}
    assert run()["owner"] == ours
    # beside ours, another one is what matters
    static = pod("gpu-1", labels={"component": "nvidia-device-plugin"})
    static["metadata"] |= {"namespace": "kube-system", "annotations": {"kubernetes.io/config.source": "file"}}
    api.put(static)
    assert (run()["owner"]["name"], run()["owner"]["evidence"]) == ("ack", "static pod kube-system/plugin-gpu-1")
    api.put(plugin())
    assert run()["owner"]["name"] == "other"


def exporter(name: str, image: str = "nvcr.io/nvidia/k8s/dcgm-exporter:4.5.3-4.8.2-distroless") -> dict[str, Any]:
    obj = plugin()
    obj["metadata"] = {"name": name, "namespace": "monitoring"}
    obj["spec"]["template"]["spec"] = {"containers": [{"name": "main", "image": image}]}
    return obj


def test_who_exports_metrics(run: Run, api: FakeApiServer) -> None:
    api.put(plugin())  # a device plugin is none
    assert run()["exporter"] is None
    ours = exporter("ours")
    ours["metadata"]["labels"] = {"app.kubernetes.io/managed-by": "gpuops.nim"}
    api.put(ours)
    assert run()["exporter"] == {"name": "gpuops.nim", "evidence": "DaemonSet monitoring/ours", "nodes": 1}
    # beside ours, another one is what matters
    for name, image, who in (
        ("zzz", "mirror.example.com/dcgm-exporter:1", "other"),
        ("ack-prometheus-gpu-exporter", "registry.example.com/acs/gpu-prometheus-exporter:v2", "ack"),
    ):
        api.put(exporter(name, image))
        told = run()["exporter"]
        assert (told["name"], told["evidence"]) == (who, f"DaemonSet monitoring/{name}")
        api.remove("DaemonSet", "monitoring", name)
    of_operator = exporter("nvidia-dcgm-exporter")
    of_operator["metadata"]["ownerReferences"] = [{"kind": "ClusterPolicy", "name": "cluster-policy", "uid": "1"}]
    api.put(of_operator)
    assert run()["exporter"]["name"] == "gpu_operator"


def test_a_release_of_helm_is_ours_by_what_its_pods_carry_not_by_its_name(run: Run, api: FakeApiServer) -> None:
    chart = plugin(**{"app.kubernetes.io/managed-by": "Helm"})
    chart["metadata"]["annotations"] = {"meta.helm.sh/release-name": NAME}
    api.put(chart)
    assert (run()["owner"]["name"], run()["owner"]["release"]) == ("other", NAME)
    chart["spec"]["template"]["metadata"] = {"annotations": {"gpuops.nim/role": "device_plugin"}}
    api.put(chart)
    assert (run()["owner"]["name"], run()["owner"]["release"]) == ("gpuops.nim", NAME)


def test_all_as_expected(run: Run, api: FakeApiServer) -> None:
    for obj in (node("gpu-1", 8), plugin(), pod("gpu-1")):
        api.put(obj)
    result = run(expected={"gpu-1": 8}, wait_timeout=5, **OF_PLUGIN)
    assert "failed" not in result
    assert result["nodes"][0]["reason"] == ""


@pytest.mark.parametrize(
    ("objects", "expected", "words"),
    [
        ([node("gpu-1", 8), pod("gpu-1")], 4, "8 nvidia.com/gpu allocatable, 4 expected"),
        ([node("gpu-1", 7, 8), pod("gpu-1")], 8, "7 nvidia.com/gpu allocatable, 8 expected; 1 of 8 are unhealthy"),
        ([node("gpu-1", 0), pod("gpu-1", False)], 8, "pod plugin-gpu-1: container main ended with 1"),
        # what an old pod still offers does not count
        ([node("gpu-1", 8)], 8, "no pod of the plugin is there"),
        ([node("gpu-1", 8), pod("gpu-1", False)], 8, "pod plugin-gpu-1: container main ended with 1"),
        (
            [node("gpu-1", 8), pod("gpu-1", deletionTimestamp="2026-01-01T00:00:00Z")],
            8,
            "the old pod plugin-gpu-1 is ending",
        ),
        ([node("cpu-1")], 8, "the cluster has no node of that name"),
    ],
)
def test_what_is_not_as_expected(
    run: Run, api: FakeApiServer, objects: list[dict[str, Any]], expected: int, words: str
) -> None:
    for obj in (plugin(), *objects):
        api.put(obj)
    result = run(expected={"gpu-1": expected}, wait_timeout=1, **OF_PLUGIN)
    assert result["failed"]
    assert f"node gpu-1: {words}" in result["msg"]


def test_only_its_own_pods_count(run: Run, api: FakeApiServer) -> None:
    discovery = [{"kind": "DaemonSet", "name": "gpu-feature-discovery"}]  # NVIDIA's chart gives both the same labels
    other = pod("gpu-1", False, name="the-other", ownerReferences=discovery)
    for obj in (node("gpu-1", 8), plugin(), pod("gpu-1"), other):
        api.put(obj)
    assert "failed" not in run(expected={"gpu-1": 8}, wait_timeout=1, **OF_PLUGIN)


def test_the_plugins_own_words_are_explained(run: Run, api: FakeApiServer) -> None:
    for obj in (node("gpu-1"), plugin(0), pod("gpu-1", False)):
        api.put(obj)
    for said in (
        b"E0101 Incompatible strategy detected auto\nE0101 invalid device discovery strategy\n",
        b"E0101 nvml init failed: Driver Not Loaded\n",
        b"E0101 CDI --device-list-strategy options are only supported on NVML-based systems\n",
    ):
        api.fault(path="/log", status=200, body=said)
        assert "set a RuntimeClass" in run(expected={"gpu-1": 8}, wait_timeout=1, **OF_PLUGIN)["msg"]
    api.fault(path="/log", status=200, body=b"starting\nsomething that nobody knows\n", times=2)
    told = run(expected={"gpu-1": 8}, wait_timeout=1, **OF_PLUGIN)["msg"]
    assert "its last words: something that nobody knows" in told


def test_a_plugin_that_is_being_replaced_is_waited_for(run: Run, api: FakeApiServer) -> None:
    for obj in (node("gpu-1", 8), plugin(0), pod("gpu-1")):
        api.put(obj)
    result = run(expected={"gpu-1": 8}, wait_timeout=1, **OF_PLUGIN)
    assert "0 of 1 pods are available" in result["msg"]


def test_no_number(run: Run) -> None:
    assert "expected: gpu-1: 'many'" in run(expected={"gpu-1": "many"})["msg"]


def test_a_pod_that_has_just_become_ready_does_not_count_yet(run: Run, api: FakeApiServer) -> None:
    for clock in (0, 3600):  # the node's may be ahead
        young = pod("gpu-1")
        since = datetime.now(timezone.utc) - timedelta(seconds=5) + timedelta(seconds=clock)
        young["status"]["conditions"][0]["lastTransitionTime"] = since.strftime("%Y-%m-%dT%H:%M:%SZ")
        for obj in (node("gpu-1", 8), plugin(), young):
            api.put(obj)
        told = run(expected={"gpu-1": 8}, wait_timeout=1, **OF_PLUGIN)["msg"]
        assert "pod plugin-gpu-1 has been ready for less than 10 s" in told
    young["status"]["conditions"][0]["lastTransitionTime"] = "2026-01-01T00:00:00Z"
    api.put(young)
    assert "failed" not in run(expected={"gpu-1": 8}, wait_timeout=1, **OF_PLUGIN)


def test_a_pod_counts_as_soon_as_it_has_been_ready_long_enough(run: Run, api: FakeApiServer) -> None:
    young = pod("gpu-1")
    since = datetime.now(timezone.utc) - timedelta(seconds=8)
    young["status"]["conditions"][0]["lastTransitionTime"] = since.strftime("%Y-%m-%dT%H:%M:%SZ")
    for obj in (node("gpu-1", 8), plugin(), young):
        api.put(obj)
    begun = time.monotonic()
    assert "failed" not in run(expected={"gpu-1": 8}, wait_timeout=30, **OF_PLUGIN)
    assert 0.5 < time.monotonic() - begun < 10
