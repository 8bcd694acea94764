# SPDX-License-Identifier: GPL-3.0-or-later
"""gpu_node_drain on a real API server: a real eviction, a real disruption budget, a node that comes back late."""

from __future__ import annotations

import functools
import json
import threading

import pytest

from ansible_collections.gpuops.nim.tests.integration import played_node

pytestmark = pytest.mark.rehearsal

NODE = "drained"


def drain(**options):
    return {"gpuops.nim.gpu_node_drain": {"node": NODE, **options}}


@pytest.fixture
def node(kubectl):
    with played_node.playing(NODE, kubectl) as node:
        node.report(gpus=2)
        yield node


def budget(namespace):
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": "model", "namespace": namespace},
        "spec": {"maxUnavailable": 0, "selector": {"matchLabels": {"app": "model"}}},
    }


def test_a_node_is_drained_within_its_budgets_and_given_back(play, new_namespace, apply, kubectl, objects, until, node):
    namespace = new_namespace("drain")
    apply(node.deployment(namespace))
    apply(budget(namespace))
    bound = functools.partial(node.pods, namespace)
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
    assert node.cordon() == (False, False)

    refused = play(drain(drain=True, timeout=2), fails=True).result
    assert f"{namespace}/{pod}" in refused["msg"]
    assert "disruption budget" in refused["msg"]
    assert bound() == [pod]
    assert node.cordon() == (True, True)

    kubectl("delete", "poddisruptionbudget", "-n", namespace, "model")
    done, again, back, twice = play(
        drain(drain=True, timeout=60), drain(drain=True), drain(state="restored"), drain(state="restored")
    ).results
    assert (done["evicted"], done["remaining"]) == ([f"{namespace}/{pod}"], [])
    assert [result["changed"] for result in (done, again, back, twice)] == [True, False, True, False]
    assert node.cordon() == (False, False)
    assert until(bound, "another pod in its place") != [pod]


def test_a_node_is_given_back_when_it_offers_its_gpus_again(play, node):
    restore = drain(state="restored", boot_id="second", timeout=2)
    play(drain(drain=True))
    assert "has not reported since the host was booted" in play(restore, fails=True).result["msg"]
    assert node.cordon() == (True, True)

    node.report(gpus=1, boot="second")
    assert "1 of 2 nvidia.com/gpu are allocatable" in play(restore, fails=True).result["msg"]
    assert node.cordon() == (True, True)

    timer = threading.Timer(2, node.report, kwargs={"gpus": 2, "boot": "second"})
    timer.start()
    assert play(drain(state="restored", boot_id="second", timeout=60)).result["changed"]
    timer.join()
    assert node.cordon() == (False, False)


@pytest.mark.matrix
def test_every_way_of_running_gives_the_same(in_all_ways, node):
    assert in_all_ways(drain(state="restored"))["changed"] is False
    assert in_all_ways(drain(node="nowhere", drain=True))["exists"] is False
