# SPDX-License-Identifier: GPL-3.0-or-later
"""gpu_node_drain on a real API server: a real eviction, a real disruption budget, a node that comes back late.

The node is an object without a kubelet, whose part the tests play: others' pods are not on it, and the cluster's own
node stays in service.
"""

from __future__ import annotations

import json
import threading

import pytest

pytestmark = pytest.mark.rehearsal

NODE = "drained"
MARK = "gpuops.nim/cordoned"
TAINT = {"key": "gpuops.nim/test", "value": NODE, "effect": "NoSchedule"}


def drain(**options):
    return {"gpuops.nim.gpu_node_drain": {"node": NODE, **options}}


@pytest.fixture
def report(kubectl, apply):
    """`report(gpus=2, ready=True, boot="first")`: what the node's kubelet says. Only pods that tolerate it come."""
    apply(
        {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": NODE, "labels": {"kubernetes.io/hostname": NODE}},
            "spec": {"taints": [TAINT]},
        }
    )

    def report(gpus=2, ready=True, boot="first"):
        resources = {"cpu": "4", "memory": "8Gi", "pods": "10", "nvidia.com/gpu": str(gpus)}
        condition = {"type": "Ready", "status": str(ready), "reason": "Kubelet", "message": "so says the test"}
        status = {"capacity": resources, "allocatable": resources, "conditions": [condition]}
        status["nodeInfo"] = {"bootID": boot}
        kubectl("patch", "node", NODE, "--subresource=status", "-p", json.dumps({"status": status}))

    report()
    yield report
    kubectl("delete", "node", NODE)


@pytest.fixture
def node(report, kubectl):
    """The node's cordon and our mark."""

    def node():
        found = json.loads(kubectl("get", "node", NODE, "-o", "json"))
        return found["spec"].get("unschedulable", False), MARK in found["metadata"].get("annotations", {})

    return node


def deployment(namespace):
    tolerations = [{"operator": "Exists", "key": TAINT["key"]}]
    tolerations += [{"operator": "Exists", "key": f"node.kubernetes.io/{why}"} for why in ("not-ready", "unreachable")]
    pod = {
        "nodeSelector": {"kubernetes.io/hostname": NODE},
        "tolerations": tolerations,
        "terminationGracePeriodSeconds": 0,
        "containers": [{"name": "model", "image": "none", "resources": {"limits": {"nvidia.com/gpu": 1}}}],
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "model", "namespace": namespace},
        "spec": {
            "selector": {"matchLabels": {"app": "model"}},
            "template": {"metadata": {"labels": {"app": "model"}}, "spec": pod},
        },
    }


def budget(namespace):
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": "model", "namespace": namespace},
        "spec": {"maxUnavailable": 0, "selector": {"matchLabels": {"app": "model"}}},
    }


def test_a_node_is_drained_within_its_budgets_and_given_back(
    play, new_namespace, apply, kubectl, objects, until, node, report
):
    namespace = new_namespace("drain")
    apply(deployment(namespace))
    apply(budget(namespace))

    def bound():
        return [name for name, pod in objects("pods", namespace).items() if pod["spec"].get("nodeName") == NODE]

    (pod,) = until(bound, "the pod on the node")
    # a budget protects no pod that has not started
    running = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
    kubectl("patch", "pod", "-n", namespace, pod, "--subresource=status", "-p", json.dumps({"status": running}))
    until(
        lambda: objects("poddisruptionbudgets", namespace)["model"].get("status", {}).get("currentHealthy"),
        "the budget to know the pod",
    )

    asked, checked = play(drain()).result, play(drain(drain=True), check=True, diff=True).result
    assert (asked["changed"], asked["gpu_pods"]) == (False, [f"{namespace}/{pod}"])
    assert checked["changed"]
    assert checked["evicted"] == [f"{namespace}/{pod}"]
    assert node() == (False, False)

    report()
    refused = play(drain(drain=True, timeout=2), fails=True).result
    assert f"{namespace}/{pod}" in refused["msg"]
    assert "disruption budget" in refused["msg"]
    assert bound() == [pod]
    assert node() == (True, True)

    kubectl("delete", "poddisruptionbudget", "-n", namespace, "model")
    report()
    done, again, back, twice = play(
        drain(drain=True, timeout=60), drain(drain=True), drain(state="restored"), drain(state="restored")
    ).results
    assert (done["evicted"], done["remaining"]) == ([f"{namespace}/{pod}"], [])
    assert [result["changed"] for result in (done, again, back, twice)] == [True, False, True, False]
    assert node() == (False, False)
    assert until(bound, "another pod in its place") != [pod]


def test_a_node_is_given_back_when_it_offers_its_gpus_again(play, node, report):
    restore = drain(state="restored", boot_id="second", timeout=2)
    play(drain(drain=True))
    assert "has not reported since the host was booted" in play(restore, fails=True).result["msg"]
    assert node() == (True, True)

    report(gpus=1, boot="second")
    assert "1 of 2 nvidia.com/gpu are allocatable" in play(restore, fails=True).result["msg"]
    assert node() == (True, True)

    timer = threading.Timer(2, report, kwargs={"boot": "second"})
    timer.start()
    assert play(drain(state="restored", boot_id="second", timeout=60)).result["changed"]
    timer.join()
    assert node() == (False, False)


@pytest.mark.matrix
def test_every_way_of_running_gives_the_same(in_all_ways, report):
    assert in_all_ways(drain(state="restored"))["changed"] is False
    assert in_all_ways(drain(node="nowhere", drain=True))["exists"] is False
