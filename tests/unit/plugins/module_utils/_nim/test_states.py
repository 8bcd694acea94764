# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: Contributors to gpuops.nim
"""Ready means that this specification is up; everything short of it has its own state."""

from __future__ import annotations

import copy

import pytest

from ansible_collections.gpuops.nim.plugins.module_utils._nim.states import Observed, differences, status_of
from ansible_collections.gpuops.nim.tests.unit.plugins.module_utils import scene

OLD = scene.wanted()
NEW = scene.wanted(image="nvcr.io/nim/meta/llama3-8b-instruct:9.9.9")


def test_ready_with_its_phases():
    pod = scene.ready_pod(OLD)
    pulled = scene.event(pod, "Pulled", 'Successfully pulled image "x" in 12s', at="2026-11-22T17:00:13Z")
    status = status_of(OLD, scene.observed(OLD, pods=[pod], events=[pulled]))
    assert (status.state, status.ready, status.revision) == ("ready", True, "1")
    assert status.phases == {"scheduled": 1.0, "pulled": 12.0, "started": 2.0, "ready": 85.0}


def test_events_of_an_earlier_pod_tell_nothing():
    pod = scene.ready_pod(OLD)
    earlier = copy.deepcopy(pod)
    earlier["metadata"]["uid"] = "another"
    status = status_of(OLD, scene.observed(OLD, pods=[pod], events=[scene.event(earlier, "Pulled", "pulled")]))
    assert "pulled" not in status.phases


def test_a_restart_leaves_no_record_of_the_first_start():
    pod = scene.pod(OLD, ready=True, state={"running": {"startedAt": "2026-11-23T17:00:00Z"}}, restartCount=1)
    assert set(status_of(OLD, scene.observed(OLD, pods=[pod])).phases) == {"scheduled"}


def test_nothing_there():
    assert status_of(OLD, Observed()).state == "absent"


# The false answers that other waits give: the old pod answers, KServe 0.20 still says Ready.
NOT_READY = {
    "KServe has not rewritten the Deployment": scene.observed(OLD, isvc=scene.live_isvc(NEW)),
    "the Deployment controller has not seen it": scene.observed(
        NEW, deployment=scene.deployment(NEW, revision=1, generation=2, observedGeneration=1)
    ),
    "the new ReplicaSet is not there": scene.observed(NEW, deployment=scene.deployment(NEW, revision=2)),
    "the new pod waits for the old pod's GPU": scene.observed(
        NEW,
        deployment=scene.deployment(NEW, revision=2, replicas=2),
        replicasets=[scene.replicaset(1), scene.replicaset(2)],
        pods=[
            scene.ready_pod(OLD, 1),
            scene.pending_pod(NEW, 2, "0/1 nodes are available: 1 Insufficient nvidia.com/gpu."),
        ],
    ),
    "the new image can't be pulled": scene.observed(
        NEW,
        deployment=scene.deployment(NEW, revision=2, replicas=2),
        replicasets=[scene.replicaset(1), scene.replicaset(2)],
        pods=[scene.ready_pod(OLD, 1), scene.pod(NEW, 2, state=scene.waiting("ImagePullBackOff"))],
    ),
    "the new pod has not been made": scene.observed(
        NEW,
        deployment=scene.deployment(NEW, revision=2, updatedReplicas=0),
        replicasets=[scene.replicaset(1), scene.replicaset(2)],
        pods=[scene.ready_pod(OLD, 1)],
    ),
    "an old pod is still there beside the new one": scene.observed(
        NEW,
        deployment=scene.deployment(NEW, revision=2, replicas=2),
        replicasets=[scene.replicaset(1), scene.replicaset(2)],
        pods=[scene.ready_pod(OLD, 1), scene.ready_pod(NEW, 2)],
    ),
    "KServe does not say Ready": scene.observed(NEW, isvc=scene.live_isvc(NEW, ready="False")),
    "not all replicas are available": scene.observed(NEW, deployment=scene.deployment(NEW, availableReplicas=0)),
}


@pytest.mark.parametrize("case", NOT_READY)
def test_not_ready_though_something_answers(case):
    status = status_of(NEW, NOT_READY[case])
    assert not status.ready
    assert status.state != "ready"


def test_a_terminating_old_pod_does_not_hold_the_answer_back():
    old = scene.ready_pod(OLD, 1)
    old["metadata"]["deletionTimestamp"] = "2026-11-22T17:00:00Z"
    seen = scene.observed(
        NEW,
        deployment=scene.deployment(NEW, revision=2),
        replicasets=[scene.replicaset(1), scene.replicaset(2)],
        pods=[old, scene.ready_pod(NEW, 2)],
    )
    assert status_of(NEW, seen).ready


def test_findings_wait_until_the_deployment_holds_the_specification():
    behind = status_of(NEW, scene.observed(OLD))
    assert (behind.current, behind.state) == (False, "scheduling")
    assert "kserve-container" in behind.detail or "image" in behind.detail
    assert status_of(OLD, scene.observed(OLD)).current


BEFORE, AFTER = "2026-11-22T16:59:59Z", "2026-11-22T17:00:00Z"
POLICIES = {  # what they make of a pod's template, and whether the Deployment is still the specification's
    "an own pull secret": (lambda pod: pod.update(imagePullSecrets=[{"name": "company"}]), True),
    "a toleration": (lambda pod: pod.update(tolerations=[{"operator": "Exists"}]), True),
    "a proxy": (lambda pod: pod["containers"][0]["env"].append({"name": "HTTPS_PROXY", "value": "http://p:1"}), True),
    "a mirror": (lambda pod: pod["containers"][0].update(image="mirror/nim/llama3-8b-instruct:1.0.0"), True),
    "a digest": (lambda pod: pod["containers"][0].update(image=f"{scene.IMAGE}@sha256:{'a' * 64}"), True),
    "another tag": (lambda pod: pod["containers"][0].update(image=f"{scene.IMAGE}1"), False),
}


@pytest.mark.parametrize("case", POLICIES)
def test_what_a_policy_has_made_of_the_deployment_is_not_waited_for_for_ever(case):
    change, ours = POLICIES[case]
    deployment = scene.deployment(OLD)
    change(deployment["spec"]["template"]["spec"])
    wanted = scene.written(scene.live_isvc(OLD), AFTER)
    seen = scene.observed(OLD, isvc=wanted, deployment=scene.written(deployment, AFTER))
    assert not status_of(OLD, seen).ready  # KServe may still be about to write it
    status = status_of(OLD, seen, settled=True)
    assert (status.ready, status.current) == (ours, ours)
    assert not ours or "is a policy's" in status.detail
    old = scene.observed(OLD, isvc=wanted, deployment=scene.written(deployment, BEFORE))
    assert not status_of(OLD, old, settled=True).ready


def test_what_somebody_else_has_made_of_the_service_is_no_policy():
    deployment = scene.written(scene.deployment(scene.wanted(cpu="3")), AFTER)
    isvc = scene.written(scene.live_isvc(scene.wanted(cpu="3")), AFTER)
    isvc["metadata"]["generation"] = 3
    wanted = {**OLD, "metadata": {**OLD["metadata"], "generation": 2}}
    assert not status_of(wanted, scene.observed(OLD, isvc=isvc, deployment=deployment), settled=True).ready


POD_STATES = {
    "scheduling": scene.pending_pod(OLD, 1, "0/1 nodes are available: 1 Insufficient nvidia.com/gpu."),
    "pulling": scene.pod(OLD, state=scene.waiting("ContainerCreating")),
    "starting": scene.pod(OLD, state=scene.waiting("CreateContainerConfigError")),
    "loading": scene.pod(OLD, state=scene.RUNNING),
}


@pytest.mark.parametrize("state", POD_STATES)
def test_states_of_a_pod(state):
    seen = scene.observed(OLD, pods=[POD_STATES[state]], deployment=scene.deployment(OLD, availableReplicas=0))
    assert status_of(OLD, seen).state == state


def test_starting_once_the_image_is_there():
    pod = scene.pod(OLD, state=scene.waiting("ContainerCreating"))
    assert (
        status_of(OLD, scene.observed(OLD, pods=[pod], events=[scene.event(pod, "Pulled", "done")])).state == "starting"
    )


def test_the_slowest_replica_decides():
    two = scene.wanted(min_replicas=2)
    pods = [scene.ready_pod(two, name="a"), scene.pod(two, name="b", state=scene.waiting("ContainerCreating"))]
    assert status_of(two, scene.observed(two, pods=pods)).state == "pulling"
    assert status_of(two, scene.observed(two, pods=pods[:1])).state == "scheduling"


def test_cluster_local_needs_no_ingress():
    local = scene.wanted(labels={"networking.kserve.io/visibility": "cluster-local"})
    isvc = scene.live_isvc(local, "False")
    isvc["status"]["conditions"] = [scene.condition("PredictorReady"), scene.condition("Ready", "False")]
    assert status_of(local, scene.observed(local, isvc=isvc)).ready
    assert not status_of(OLD, scene.observed(OLD, isvc={**isvc, "metadata": OLD["metadata"]})).ready


def test_stopped_and_refused():
    stopped, refused = scene.live_isvc(OLD), scene.live_isvc(OLD, "False")
    stopped["status"]["conditions"] = [scene.condition("Stopped")]
    refused["status"]["modelStatus"] = {
        "transitionStatus": "InvalidSpec",
        "lastFailureInfo": {"message": "no such runtime"},
    }
    assert status_of(OLD, scene.observed(OLD, isvc=stopped)).state == "stopped"
    status = status_of(OLD, scene.observed(OLD, isvc=refused))
    assert (status.state, "no such runtime" in status.detail) == ("failed", True)


SPEC_CHANGES = {
    "env added": {"env": {"A": "1"}},
    "memory": {"memory": "64Gi"},
    "gpus": {"gpus": 2},
    "cache": {"cache": {"claim": "c", "path": "/mnt/models"}},
    "pull secret": {"image_pull_secrets": ["other"]},
    "node selector": {"node_selector": {"a": "b"}},
    "toleration": {"tolerations": [{"operator": "Exists"}]},
    "startup window": {"startup_timeout": 60},
    "user": {"security_context": {"runAsUser": 0}},
    "annotation": {"annotations": {"a": "b"}},
    "label": {"labels": {"a": "b"}},
    "replicas": {"min_replicas": 2},
    "patch": {"pod_patch": {"priorityClassName": "high"}},
}


@pytest.mark.parametrize("change", SPEC_CHANGES)
def test_a_deployment_of_another_specification_is_seen_both_ways(change):
    """A change shows, and so does taking it back: an old template with one variable too many is an old template."""
    changed = scene.wanted(**SPEC_CHANGES[change])
    assert differences(changed, scene.deployment(changed)) == []
    assert differences(changed, scene.deployment(OLD))
    if change not in ("annotation", "label"):  # who put a label on the template can't be told
        assert differences(OLD, scene.deployment(changed))


def test_what_the_server_writes_differently_is_no_difference():
    asked = scene.wanted(cpu="0.5", memory="1024Mi", gpus=1)
    live = scene.deployment(asked)
    sizes = {"cpu": "500m", "memory": "1Gi", "nvidia.com/gpu": 1}
    live["spec"]["template"]["spec"]["containers"][0]["resources"] = {"requests": sizes, "limits": sizes}
    assert differences(asked, live) == []


def test_keys_that_kserve_keeps_out_of_pods_are_no_difference():
    asked = scene.wanted(annotations={"internal/x": "1"})
    assert differences(asked, scene.deployment(OLD), frozenset({"internal/x"})) == []


# -- a serving runtime's container, and containers beside NIM's


def of_runtime(**more):
    """A service with predictor.model, and the Deployment that KServe makes of it and a runtime."""
    wanted = scene.wanted(model_format="nim", image=None, env={"A": "1"}, arguments=["--ours"])
    whole = scene.wanted(env={"A": "1", "OF_THE_RUNTIME": "yes"}, arguments=["--theirs", "--ours"], **more)
    return wanted, scene.deployment(whole)


def test_what_a_serving_runtime_adds_is_no_difference():
    wanted, deployment = of_runtime(node_selector={"of": "the-runtime"})
    assert differences(wanted, deployment) == []


@pytest.mark.parametrize(
    ("change", "found"),
    [({"env": {"A": "2"}}, "env"), ({"arguments": ["--more"]}, "args"), ({"runtime_version": "9"}, "runtimeVersion")],
)
def test_what_is_not_laid_over_the_runtime_yet(change, found):
    _, deployment = of_runtime()
    given = {"model_format": "nim", "image": None, "env": {"A": "1"}, "arguments": ["--ours"], **change}
    assert differences(scene.wanted(**given), deployment) == [found]


def test_a_container_before_nims_that_can_not_start():
    service = scene.wanted(ca_bundle={"secret": "a", "key": "b"})
    pod = scene.pod(service, state=scene.waiting("PodInitializing"))
    first = {"name": "nim-trust", "state": scene.waiting("ErrImagePull", "401 Unauthorized")}
    pod["status"]["initContainerStatuses"] = [first]
    status = status_of(service, scene.observed(service, pods=[pod]))
    assert (status.state, "ErrImagePull" in status.detail) == ("pulling", True)


def test_a_container_beside_nims_that_is_not_ready_is_named():
    service = scene.wanted()
    pod = scene.ready_pod(service)
    pod["status"]["conditions"][1]["status"] = "False"
    pod["status"]["containerStatuses"].append({"name": "agent", "state": scene.waiting("ErrImagePull")})
    status = status_of(service, scene.observed(service, pods=[pod]))
    assert "its container agent (ErrImagePull) is not" in status.detail
