# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: Contributors to gpuops.nim
"""What is told of a pod's way: each step with its time, where it stopped, and what Kubernetes has forgotten."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest

from ansible_collections.gpuops.nim.plugins.module_utils._nim import names, states, timeline
from ansible_collections.gpuops.nim.tests.unit.plugins.module_utils.scene import (
    RUNNING,
    condition,
    deployment,
    live_isvc,
    pending_pod,
    pod,
    ready_pod,
    replicaset,
    waiting,
    wanted,
)

NOW = datetime(2026, 11, 22, 17, 10, tzinfo=timezone.utc)
ISVC = wanted()


def event(of, reason, at, message=""):
    return {
        "involvedObject": {
            "uid": of["metadata"]["uid"],
            "fieldPath": f"spec.containers{{{names.CONTAINER}}}",
        },
        "reason": reason,
        "message": message,
        "firstTimestamp": f"2026-11-22T17:{at}Z",
        "lastTimestamp": f"2026-11-22T17:{at}Z",
    }


def pulled_events(of):
    return [event(of, "Pulling", "00:03"), event(of, "Pulled", "00:13"), event(of, "Started", "00:15")]


def rows(*pods, events=(), revision=1, **of_deployment):
    sets = [replicaset(number) for number in range(1, revision + 1)]
    seen = states.Observed(live_isvc(ISVC), deployment(ISVC, revision, **of_deployment), sets, list(pods), list(events))
    return timeline.of(seen)


def steps(row):
    return [(step["step"], step["seconds"], step["outcome"]) for step in row.data(NOW)["steps"]]


def test_a_pod_that_is_ready_has_taken_all_steps():
    it = ready_pod(ISVC)
    (row,) = rows(it, events=pulled_events(it))
    assert steps(row) == [
        ("scheduling", 1.0, "done"),
        ("preparing", 2.0, "done"),
        ("pulling", 10.0, "done"),
        ("starting", 2.0, "done"),
        ("loading", 85.0, "done"),
        ("ready", 500.0, "running"),
    ]
    assert row.stopped_at == ""
    assert row.data(NOW)["steps"][0]["began"] == "2026-11-22T17:00:00Z"
    assert row.data(NOW)["steps"][-1]["ended"] is None


def test_without_events_the_steps_between_place_and_start_are_one():
    (row,) = rows(ready_pod(ISVC))
    assert [step[:2] for step in steps(row)[:3]] == [("scheduling", 1.0), ("starting", 14.0), ("loading", 85.0)]


def test_an_image_that_was_there_was_not_pulled():
    it = ready_pod(ISVC)
    (row,) = rows(it, events=[event(it, "Pulled", "00:03", "already present on machine")])
    assert "pulling" not in [name for name, *_rest in steps(row)]


@pytest.mark.parametrize(
    ("state", "step", "outcome", "said"),
    [
        (waiting("ImagePullBackOff"), "pulling", "stuck", "ImagePullBackOff"),
        (waiting("CreateContainerConfigError"), "starting", "stuck", "CreateContainerConfigError"),
        (waiting("ContainerCreating"), "preparing", "running", "ContainerCreating"),
        (RUNNING, "loading", "running", ""),
    ],
)
def test_where_it_is(state, step, outcome, said):
    it = pod(ISVC, state=state)
    it["status"]["conditions"][1]["lastTransitionTime"] = "2026-11-22T17:00:01Z"
    (row,) = rows(it)
    last = row.steps[-1]
    assert (last.step, last.outcome, last.said, last.ended) == (step, outcome, said, None)
    assert row.stopped_at == (step if outcome == "stuck" else "")


def test_a_volume_that_can_not_be_mounted_is_told():
    it = pod(ISVC, state=waiting("ContainerCreating"))
    (row,) = rows(it, events=[event(it, "FailedMount", "02:00")])
    assert (row.stopped_at, row.steps[-1].said) == ("preparing", "FailedMount")


def test_a_pod_without_a_place():
    (row,) = rows(pending_pod(ISVC, 1, "0/1 nodes are available: 1 Insufficient nvidia.com/gpu."))
    assert steps(row) == [("scheduling", 600.0, "stuck")]
    assert row.node == ""


def ended(at="03:00", code=1):
    return {
        "terminated": {
            "exitCode": code,
            "reason": "Error",
            "startedAt": "2026-11-22T17:00:15Z",
            "finishedAt": f"2026-11-22T17:{at}Z",
        }
    }


def test_a_container_that_crashes_again_and_again():
    it = pod(ISVC, state=waiting("CrashLoopBackOff"), lastState=ended(), restartCount=4)
    (row,) = rows(it, events=pulled_events(it))
    assert steps(row)[-1] == ("restarting", 585.0, "stuck")
    assert row.data(NOW)["restarts"] == [{"at": "2026-11-22T17:03:00Z", "exit_code": 1, "reason": "Error"}]
    assert row.data(NOW)["restart_count"] == 4


def test_a_restart_that_went_well_is_a_step_of_its_own():
    again = {"running": {"startedAt": "2026-11-22T17:03:20Z"}}
    it = pod(ISVC, state=again, lastState=ended(), restartCount=1, ready=True)
    it["status"]["conditions"][1]["lastTransitionTime"] = "2026-11-22T17:05:00Z"
    (row,) = rows(it, events=pulled_events(it))
    assert [step[:2] for step in steps(row)[-3:]] == [("restarting", 185.0), ("loading", 100.0), ("ready", 300.0)]


def test_a_pod_that_was_ready_and_is_no_more():
    it = pod(ISVC, state=RUNNING)
    it["status"]["conditions"][1] = condition("Ready", "False", lastTransitionTime="2026-11-22T17:05:00Z")
    (row,) = rows(it)
    assert row.stopped_at == "unready"
    assert steps(row)[-1] == ("unready", 300.0, "stuck")


def test_pods_that_could_not_be_made():
    refused = replicaset()
    refused["metadata"]["creationTimestamp"] = "2026-11-22T17:01:00Z"
    refused["status"] = {"conditions": [condition("ReplicaFailure")]}
    (row,) = timeline.of(states.Observed(live_isvc(ISVC), deployment(ISVC), [refused]))
    assert (row.pod, steps(row)) == ("", [("creating", 540.0, "stuck")])


def test_a_stopped_service_waits_for_nothing():
    stopped = deployment(ISVC)
    stopped["spec"]["replicas"] = 0
    assert timeline.of(states.Observed(live_isvc(ISVC), stopped, [replicaset()])) == []


def test_the_old_pod_that_still_serves_comes_after_the_new_one():
    old, new = ready_pod(ISVC, 1), pod(ISVC, 2, state=waiting("ErrImagePull"))
    told = rows(old, new, revision=2)
    assert [(row.current, row.revision, row.steps[-1].step) for row in told] == [
        (True, "2", "pulling"),
        (False, "1", "ready"),
    ]


def test_a_pod_that_ends():
    old = ready_pod(ISVC, 1)
    old["metadata"].update(deletionTimestamp="2026-11-22T17:06:00Z", deletionGracePeriodSeconds=60)
    new = ready_pod(ISVC, 2)
    row = rows(old, new, revision=2)[1]
    assert steps(row)[-2:] == [("ready", 200.0, "done"), ("ending", 300.0, "running")]


def test_since_when_nothing_has_moved():
    it = pod(ISVC, state=waiting("ImagePullBackOff"))
    seen = states.Observed(live_isvc(ISVC), deployment(ISVC), [replicaset()], [it], pulled_events(it)[:1])
    assert timeline.since(seen) == datetime(2026, 11, 22, 17, 0, 3, tzinfo=timezone.utc)
    seen.isvc["metadata"]["managedFields"] = [
        {"manager": "kubectl", "time": "2026-11-22T17:08:00Z"},
        {"manager": "manager", "subresource": "status", "time": "2026-11-22T17:09:00Z"},
    ]
    assert timeline.since(seen) == datetime(2026, 11, 22, 17, 8, tzinfo=timezone.utc)
