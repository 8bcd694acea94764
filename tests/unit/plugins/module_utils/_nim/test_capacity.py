# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a second pod fits: the scheduler's own rules, as far as they can be known."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.gpuops.nim.plugins.module_utils._nim import capacity

GPU = "nvidia.com/gpu"


def node(name: str = "a", gpus: str = "2", ready: str = "True", pods: str = "110", **spec: Any) -> dict[str, Any]:
    allocatable = {"cpu": "7910m", "memory": "60Gi", "pods": pods, GPU: gpus}
    labels = {"zone": "z1", "gpu.memory": "81559"}
    status = {"allocatable": allocatable, "conditions": [{"type": "Ready", "status": ready}]}
    return {"metadata": {"name": name, "labels": labels}, "spec": spec, "status": status}


def pod(gpus: str = "1", cpu: str = "4", memory: str = "32Gi", **spec: Any) -> dict[str, Any]:
    limits = {GPU: gpus, "cpu": cpu, "memory": memory}
    return {"containers": [{"name": "kserve-container", "resources": {"limits": limits}}], **spec}


def running(spec: dict[str, Any], on: str = "a", phase: str = "Running") -> dict[str, Any]:
    return {"metadata": {}, "spec": {**spec, "nodeName": on}, "status": {"phase": phase}}


def room(spec: dict[str, Any], nodes: list[dict[str, Any]], pods: list[dict[str, Any]] | None = None) -> str:
    return capacity.room(spec, capacity.candidates(spec, nodes), pods or [])


def test_room_is_what_the_pods_there_leave() -> None:
    small = pod(cpu="1", memory="1Gi")
    assert room(small, [node()]) == "a"
    assert room(small, [node()], [running(small)]) == "a"
    assert room(small, [node()], [running(small), running(small)]) == ""
    assert room(small, [node(), node("b")], [running(small), running(small)]) == "b"


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
def test_a_pod_that_is_over_has_no_gpu_and_one_that_is_ending_has(phase: str) -> None:
    big = pod(gpus="2")
    assert room(big, [node()], [running(big, phase=phase)]) == "a"
    ending = running(big)
    ending["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert room(big, [node()], [ending]) == ""


@pytest.mark.parametrize(
    "wanted",
    [pod(gpus="3"), pod(cpu="8"), pod(memory="61Gi"), pod(nodeSelector={"zone": "z2"})],
    ids=["gpus", "cpu", "memory", "selector"],
)
def test_each_resource_and_the_selector_count(wanted: dict[str, Any]) -> None:
    assert room(pod(cpu="7", memory="59Gi", nodeSelector={"zone": "z1"}), [node()]) == "a"
    assert room(wanted, [node()]) == ""


@pytest.mark.parametrize(
    "broken", [node(ready="False"), node(ready="Unknown"), node(unschedulable=True), node(pods="0")]
)
def test_a_node_that_takes_no_pods(broken: dict[str, Any]) -> None:
    assert room(pod(), [broken]) == ""


@pytest.mark.parametrize(
    ("toleration", "fits"),
    [
        ({}, False),
        ({"key": GPU, "operator": "Exists"}, True),
        ({"operator": "Exists"}, True),
        ({"key": GPU, "value": "present", "effect": "NoSchedule"}, True),
        ({"key": GPU, "value": "other"}, False),
        ({"key": GPU, "operator": "Exists", "effect": "NoExecute"}, False),
    ],
)
def test_taints(toleration: dict[str, Any], fits: bool) -> None:
    tainted = node(taints=[{"key": GPU, "value": "present", "effect": "NoSchedule"}])
    assert bool(room(pod(tolerations=[toleration] if toleration else []), [tainted])) is fits


def test_a_taint_that_only_advises_is_no_obstacle() -> None:
    assert room(pod(), [node(taints=[{"key": "x", "effect": "PreferNoSchedule"}])]) == "a"


@pytest.mark.parametrize(
    ("rule", "fits"),
    [
        ({"key": "zone", "operator": "In", "values": ["z1", "z2"]}, True),
        ({"key": "zone", "operator": "NotIn", "values": ["z1"]}, False),
        ({"key": "gpu.memory", "operator": "Gt", "values": ["40000"]}, True),
        ({"key": "gpu.memory", "operator": "Lt", "values": ["40000"]}, False),
        ({"key": "zone", "operator": "Gt", "values": ["1"]}, False),
        ({"key": "zone", "operator": "Exists"}, True),
        ({"key": "none", "operator": "DoesNotExist"}, True),
        ({"key": "none", "operator": "Exists"}, False),
    ],
)
def test_node_affinity(rule: dict[str, Any], fits: bool) -> None:
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchExpressions": [rule]}]}}
    assert bool(room(pod(affinity={"nodeAffinity": required}), [node()])) is fits


@pytest.mark.parametrize(
    "spec",
    [
        {"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "h"}]}}},
        {"topologySpreadConstraints": [{"whenUnsatisfiable": "DoNotSchedule"}]},
        {"schedulerName": "volcano"},
        {"hostNetwork": True},
    ],
    ids=lambda spec: next(iter(spec)),
)
def test_what_cannot_be_known_is_no_room(spec: dict[str, Any]) -> None:
    assert room(pod(**spec), [node()]) == ""


def test_init_containers_and_side_cars() -> None:
    first = {"name": "init", "resources": {"requests": {"cpu": "6"}}}
    beside = {"name": "side", "restartPolicy": "Always", "resources": {"requests": {"cpu": "2"}}}
    spec = pod(cpu="4", initContainers=[first, beside])
    assert capacity.requests(spec)["cpu"] == 6000
    assert capacity.requests(pod(cpu="5", initContainers=[first, beside]))["cpu"] == 7000


def test_the_short_form_of_a_node_and_a_pod_says_the_same() -> None:
    taint = {"key": "gpu", "value": "only", "effect": "NoSchedule"}
    long_node = node(taints=[taint])
    long_node["status"]["images"] = [{"names": ["r/i@sha256:1", "r/i:1"], "sizeBytes": 1}]
    long_node["metadata"]["annotations"] = {"a": "x" * 1000}
    short = capacity.short_node(long_node)
    assert short["status"]["images"] == []
    assert capacity.short_node(long_node, {"r/i:1", "other"})["status"]["images"] == ["r/i:1"]
    assert "annotations" not in short["metadata"]
    tolerant = pod(tolerations=[{"key": "gpu", "operator": "Exists"}])
    for spec in (pod(), tolerant):
        assert capacity.refusal(spec, short) == capacity.refusal(spec, long_node)
    two = running(pod(initContainers=[{"name": "i", "image": "x", "resources": {"limits": {"cpu": "6"}}}]))
    two["metadata"] = {"name": "p", "namespace": "n", "labels": {"app": "x", "serving.kserve.io/inferenceservice": "s"}}
    short_pod = capacity.short_pod(two)
    assert capacity.requests(short_pod["spec"]) == capacity.requests(two["spec"])
    assert short_pod["metadata"]["labels"] == {"serving.kserve.io/inferenceservice": "s"}
    assert "image" not in str(short_pod)


@pytest.mark.parametrize(
    ("spec", "changed", "why"),
    [
        ({}, {}, ""),
        ({}, {"unschedulable": True}, "cordoned"),
        ({"nodeSelector": {"zone": "z2"}}, {}, "without the label zone=z2"),
        ({}, {"taints": [{"key": "a", "value": "b", "effect": "NoSchedule"}]}, "with the taint a=b:NoSchedule"),
        ({}, {"taints": [{"key": "a", "effect": "NoExecute"}]}, "with the taint a:NoExecute"),
        ({"nodeName": "b"}, {}, "not the one that nodeName names"),
    ],
)
def test_why_a_node_does_not_take_it(spec: dict[str, Any], changed: dict[str, Any], why: str) -> None:
    assert capacity.refusal(pod(**spec), node(**changed)) == why


def test_too_small_a_node() -> None:
    assert capacity.refusal(pod(gpus="4"), node()) == f"with too little {GPU} (2 of 4)"
    assert capacity.refusal(pod(memory="90Gi"), node()) == "with too little memory (60.0 GiB of 90.0 GiB)"
    assert capacity.refusal(pod(), node(ready="Unknown")) == "not ready"


def test_room_that_was_taken_is_gone() -> None:
    nodes = [node(), node("b", gpus="1")]
    room = capacity.Room(nodes, [running(pod())])
    small = pod(cpu="1", memory="1Gi")
    assert room.free(nodes[0], GPU) == 1
    assert [room.take(small, nodes) for _ in range(3)] == ["a", "b", ""]
