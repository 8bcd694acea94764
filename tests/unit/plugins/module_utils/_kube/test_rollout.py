# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.gpuops.nim.plugins.module_utils._kube import rollout


def deployment(wanted: int = 2, seen: int = 3, **status: Any) -> dict[str, Any]:
    return {
        "kind": "Deployment",
        "metadata": {"name": "d", "generation": 3},
        "spec": {"replicas": wanted, "selector": {"matchLabels": {"app": "d"}}},
        "status": {"observedGeneration": seen, **status},
    }


def daemon_set(wanted: int, new: int, available: int) -> dict[str, Any]:
    status = {"desiredNumberScheduled": wanted, "updatedNumberScheduled": new, "numberAvailable": available}
    selector = {"matchLabels": {"app": "d"}}
    return {
        "kind": "DaemonSet",
        "metadata": {"name": "d", "generation": 1},
        "spec": {"selector": selector},
        "status": {"observedGeneration": 1, **status},
    }


def pod(*containers: dict[str, Any], app: str = "d", node: str = "gpu-1", **status: Any) -> dict[str, Any]:
    meta = {"name": f"{app}-1", "labels": {"app": app, "more": "x"}}
    return {"metadata": meta, "spec": {"nodeName": node}, "status": {"containerStatuses": list(containers), **status}}


def container(**state: Any) -> dict[str, Any]:
    return {"name": "main", "state": state}


def test_up_means_all_pods_of_the_newest_specification() -> None:
    up = {"replicas": 2, "updatedReplicas": 2, "availableReplicas": 2}
    assert rollout.missing(deployment(**up), []) == []
    assert rollout.missing(deployment(seen=2, **up), []) == ["its controller has not looked at it yet"]
    # the old pods answer, the new ones don't come up
    assert rollout.missing(deployment(**{**up, "updatedReplicas": 1, "replicas": 3}), [])
    assert rollout.missing(deployment(**{**up, "replicas": 3}), [])  # an old one is still there
    assert rollout.missing(deployment(wanted=0, replicas=0), []) == []
    assert rollout.missing(daemon_set(3, 3, 3), []) == []
    assert rollout.missing(daemon_set(0, 0, 0), []) == []
    assert rollout.missing(daemon_set(3, 2, 3), [])
    assert rollout.missing(daemon_set(3, 3, 2), []) == ["2 of 3 pods are available, 3 of them as it is now written"]


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        (
            pod(container(waiting={"reason": "ImagePullBackOff", "message": "Back-off pulling x"})),
            "container main: ImagePullBackOff: Back-off pulling x",
        ),
        (pod(container(waiting={"reason": "ContainerCreating"})), "it is being started"),
        (
            pod(container(running={})),
            "it runs, and its readiness probe has not succeeded",
        ),
        (
            pod(
                {
                    **container(waiting={"reason": "CrashLoopBackOff", "message": "back-off 10s"}),
                    "lastState": {"terminated": {"exitCode": 1, "reason": "Error", "message": "no GPU\n"}},
                }
            ),
            "container main ended with 1 (Error) no GPU",
        ),
        (pod(reason="UnexpectedAdmissionError", message="no room"), "UnexpectedAdmissionError: no room"),
    ],
)
def test_a_pod_says_its_node_and_its_reason(seen: dict[str, Any], said: str) -> None:
    others = pod(container(waiting={"reason": "ErrImagePull"}), app="other")
    assert rollout.missing(daemon_set(1, 1, 0), [others, seen]) == [f"pod d-1 on node gpu-1: {said}"]


def test_a_pod_that_fits_nowhere_says_for_which_node_it_was_made() -> None:
    condition = {"type": "PodScheduled", "status": "False", "message": "Insufficient cpu"}
    waiting = pod(node="", conditions=[condition])
    field = {"key": "metadata.name", "operator": "In", "values": ["gpu-7"]}
    rule = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchFields": [field]}]}}
    waiting["spec"]["affinity"] = {"nodeAffinity": rule}
    assert rollout.missing(daemon_set(1, 1, 0), [waiting]) == ["pod d-1 on node gpu-7: Insufficient cpu"]


def test_a_deployment_without_pods_says_what_its_controller_says() -> None:
    failure = {"type": "ReplicaFailure", "status": "True", "message": "exceeded quota"}
    assert rollout.missing(deployment(conditions=[failure]), []) == ["exceeded quota"]


def test_hopeless_only_when_given_up_for_what_is_written_now() -> None:
    late = {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}
    assert rollout.hopeless(deployment(conditions=[late]))
    assert not rollout.hopeless(deployment(seen=2, conditions=[late]))
    assert not rollout.hopeless(deployment())
