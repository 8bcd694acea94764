# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: Contributors to gpuops.nim
"""What the rules make of more than one sign: the more is known, the surer, and nobody is blamed too soon."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from ansible_collections.gpuops.nim.plugins.module_utils._nim import findings
from ansible_collections.gpuops.nim.plugins.module_utils._nim.findings import Around
from ansible_collections.gpuops.nim.tests.unit.plugins.module_utils import scene

SERVICE = scene.wanted()
NOW = datetime(2026, 11, 22, 17, 30, tzinfo=timezone.utc)
REFUSED = "failed to authorize: failed to fetch oauth token: unexpected status: 401 Unauthorized"
NODES = {
    "rehearsal": {
        "metadata": {"name": "rehearsal"},
        "status": {"conditions": [scene.condition("Ready")], "allocatable": {"nvidia.com/gpu": "4"}},
    }
}


def told(found):
    return [(finding.id, finding.variant) for finding in found]


def diagnosed(pod, *events, now=NOW, logs=None, **changes):
    around = changes.pop("around", Around(nodes=NODES))
    seen = scene.observed(SERVICE, **{"pods": [pod], "events": list(events), **changes})
    return findings.diagnose(seen, logs=logs, around=around, now=now)


# -- what is known of the key


def pulled(message: str, **around: Any):
    pod = scene.pod(SERVICE, state=scene.waiting("ErrImagePull", message))
    tried = scene.event(pod, "Pulling", "Pulling image", at="2026-11-22T17:00:10Z")
    return diagnosed(pod, tried, around=Around(nodes=NODES, **around))


FORBIDDEN = "failed to fetch oauth token: unexpected status: 403 Forbidden"
VERDICTS = [
    (REFUSED, "", "key", "likely"),
    (REFUSED, "unavailable", "key", "likely"),
    (REFUSED, "unknown", "key", "likely"),
    (REFUSED, "invalid", "key", "certain"),
    (REFUSED, "expired", "expired", "certain"),
    (REFUSED, "not_entitled", "right", "certain"),
    (REFUSED, "blocked", "blocked", "certain"),
    (REFUSED, "no_such_image", "name", "certain"),
    (REFUSED, "valid", "stale", "certain"),
    (FORBIDDEN, "invalid", "key", "certain"),
    (FORBIDDEN, "not_entitled", "right", "certain"),
    ("402 Payment Required", "not_entitled", "entitlement", "certain"),
    # that the node asks without a key, or can't ask, has nothing to do with the key
    ("failed to fetch anonymous token: unexpected status: 401 Unauthorized", "valid", "no-secret", "certain"),
    ("dial tcp 34.1.2.3:443: i/o timeout", "invalid", "network", "certain"),
]


@pytest.mark.parametrize(("message", "answer", "variant", "confidence"), VERDICTS)
def test_a_verdict_makes_a_refused_pull_certain_or_tells_what_it_is(message, answer, variant, confidence):
    verdict = {"verdict": answer, "cause": "NGC says so", "remedy": ""} if answer else None
    (finding,) = pulled(message, verdict=verdict)
    assert (finding.variant, finding.confidence) == (variant, confidence)
    # evidence says what made it sure
    assert ("NGC says so" in " ".join(finding.evidence)) == (
        confidence == "certain" and variant not in ("no-secret", "network")
    )


def test_a_secret_that_was_repaired_after_the_last_try_needs_a_new_pod_not_a_new_key():
    before, after = "2026-11-22T17:00:09Z", "2026-11-22T17:00:11Z"
    assert [f.variant for f in pulled(REFUSED, secrets={"ngc-secret": before})] == ["key"]
    (stale,) = pulled(REFUSED, secrets={"ngc-secret": after})
    assert (stale.variant, stale.heals) == ("stale", True)
    assert "17:00:11" in stale.evidence[1]
    # a key that is known to be bad is no better for having been written again
    bad = {"verdict": "invalid", "cause": "", "remedy": ""}
    assert [f.variant for f in pulled(REFUSED, secrets={"ngc-secret": after}, verdict=bad)] == ["key"]


def test_a_pull_secret_that_is_not_there_is_named():
    (finding,) = pulled(REFUSED, secrets={"ngc-secret": ""})
    assert finding.variant == "no-secret"
    assert "there is no secret ngc-secret" in finding.evidence


def test_a_bad_key_is_told_once():
    """Where pods have met it already there is no second finding that warns of it."""
    assert told(pulled(REFUSED, verdict={"verdict": "expired", "cause": "", "remedy": ""})) == [
        ("image-pull-refused", "expired")
    ]


# -- a container that ends, and tries again


ENDED = {"terminated": {"exitCode": 1, "reason": "Error", "startedAt": "2026-11-22T17:00:15Z"}}
KEY_LOG = "HTTP status client error (401 Unauthorized) for url (https://api.ngc.nvidia.com/v2/x)"


@pytest.mark.parametrize(
    ("state", "restarts", "log", "expected"),
    [
        (scene.RUNNING, 1, KEY_LOG, [("crash-loop", "key", True)]),
        (scene.waiting("CrashLoopBackOff"), 1, KEY_LOG, [("crash-loop", "key", False)]),
        (scene.RUNNING, 1, "ValueError: bad", []),
        (scene.RUNNING, 2, "ValueError: bad", [("crash-loop", "exit", True)]),
        (scene.RUNNING, 2, "unable to retrieve container logs for containerd://0a", []),
        (scene.waiting("CrashLoopBackOff"), 2, "", [("crash-loop", "exit", False)]),
    ],
)
def test_a_known_cause_is_kept_while_the_container_runs_again(state, restarts, log, expected):
    pod = scene.pod(SERVICE, state=state, lastState=ENDED, restartCount=restarts)
    found = findings.find(scene.observed(SERVICE, pods=[pod]), logs={pod["metadata"]["uid"]: log})
    assert [(finding.id, finding.variant, finding.heals) for finding in found] == expected


def test_a_gpu_fault_is_told_of_a_pod_that_is_ready_again():
    pod = scene.pod(SERVICE, ready=True, state=scene.RUNNING, lastState=ENDED, restartCount=1)
    (finding,) = diagnosed(pod, logs={pod["metadata"]["uid"]: "NVRM: Xid (PCI:0000:00:07): 31, pid=1"})
    assert (finding.id, finding.variant, finding.severity) == ("crash-loop", "gpu-fault", "warning")
    assert diagnosed(pod, logs={pod["metadata"]["uid"]: "ValueError: bad"}) == []


def test_a_read_only_mount_is_told_from_a_folder_of_somebody_else():
    log = "RuntimeError: Unable to write to NIM_CACHE_PATH (/mnt/models)"
    for read_only, variant in ((True, "cache-read-only"), (False, "cache-not-writable")):
        pod = scene.pod(SERVICE, state=scene.waiting("CrashLoopBackOff"), lastState=ENDED, restartCount=1)
        env = [{"name": "NIM_CACHE_PATH", "value": "/mnt/models"}]
        mounts = [{"name": "cache", "mountPath": "/mnt/models", "readOnly": read_only}]
        pod["spec"]["containers"] = [{"name": "kserve-container", "env": env, "volumeMounts": mounts}]
        found = findings.find(scene.observed(SERVICE, pods=[pod]), logs={pod["metadata"]["uid"]: log})
        assert told(found) == [("crash-loop", variant)]


def test_a_lost_node_is_the_cause_whatever_its_pod_was_at():
    gone = {
        "rehearsal": {"metadata": {"name": "rehearsal"}, "status": {"conditions": [scene.condition("Ready", "False")]}}
    }
    pod = scene.pod(SERVICE, state=scene.waiting("ErrImagePull", REFUSED))
    assert told(diagnosed(pod, around=Around(nodes=gone))) == [("node-lost", "lost")]


# -- nobody is blamed too soon


def test_kserve_is_not_blamed_while_it_works_for_others():
    isvc = scene.live_isvc(SERVICE, "False")
    isvc["metadata"]["creationTimestamp"] = "2026-11-22T17:00:00Z"
    seen = scene.observed(SERVICE, isvc=isvc, deployment=None, replicasets=[], pods=[])
    other = scene.ready_pod(SERVICE, name="other")
    silent = [("controller-silent", "kserve")]
    assert told(findings.find(seen, current=False, around=Around())) == silent
    other["metadata"]["creationTimestamp"] = "2026-11-22T16:00:00Z"
    assert told(findings.find(seen, current=False, around=Around(), neighbours=[other])) == silent
    other["metadata"]["creationTimestamp"] = "2026-11-22T17:00:20Z"
    assert told(findings.find(seen, current=False, around=Around(), neighbours=[other])) == []


@pytest.mark.parametrize(("seconds", "blamed"), [(20, False), (40, True)])
def test_kserve_has_half_a_minute(seconds, blamed):
    isvc = scene.live_isvc(SERVICE, "False")
    isvc["metadata"]["creationTimestamp"] = "2026-11-22T17:00:00Z"
    seen = scene.observed(SERVICE, isvc=isvc, deployment=None, replicasets=[], pods=[])
    now = datetime(2026, 11, 22, 17, 0, tzinfo=timezone.utc) + timedelta(seconds=seconds)
    found = findings.diagnose(seen, current=False, around=Around(), now=now)
    assert told(found) == ([("controller-silent", "kserve")] if blamed else [])


def test_a_long_pull_is_no_fault_though_the_kubelet_has_warned_of_something_before():
    pod = scene.pod(SERVICE, state=scene.waiting("ContainerCreating"))
    pod["status"]["startTime"] = "2026-11-22T17:00:01Z"
    warned = {**scene.event(pod, "MissingClusterDNS", "no ClusterDNS IP", at="2026-11-22T17:00:02Z"), "type": "Warning"}
    mounted = scene.event(pod, "FailedMount", "timed out", at="2026-11-22T17:00:03Z")
    pulling = scene.event(pod, "Pulling", "Pulling image", at="2026-11-22T17:00:09Z")
    assert diagnosed(pod, warned, mounted, pulling) == []


def test_a_model_that_is_not_ready_any_more_is_told_with_what_it_answers():
    pod = scene.pod(SERVICE, state=scene.RUNNING)
    pod["status"]["startTime"] = "2026-11-22T17:00:01Z"
    said = "Readiness probe failed: HTTP probe failed with statuscode: 503"
    now = scene.event(pod, "Unhealthy", said, at="2026-11-22T17:20:00Z")
    (finding,) = diagnosed(pod, now)
    assert (finding.id, finding.confidence) == ("unknown", "possible")
    assert said in finding.evidence[0]
    # before its last start, or while it starts
    assert diagnosed(pod, scene.event(pod, "Unhealthy", said, at="2026-11-22T17:00:10Z")) == []
    starting = said.replace("Readiness", "Startup")
    assert diagnosed(pod, scene.event(pod, "Unhealthy", starting, at="2026-11-22T17:20:00Z")) == []


# -- GPUs


def unplaced(message: str, gpus: int = 1, **nodes: Any):
    pod = scene.pending_pod(scene.wanted(gpus=gpus), 1, message)
    return told(findings.find(scene.observed(SERVICE, pods=[pod]), around=Around(nodes=nodes)))


def gpu_node(gpus: int, *taints: str):
    return {
        "metadata": {"name": "x"},
        "spec": {"taints": [{"key": key, "effect": "NoSchedule"} for key in taints]},
        "status": {"allocatable": {"nvidia.com/gpu": str(gpus)}},
    }


def test_what_all_nodes_offer_tells_why_there_is_no_gpu():
    text = "0/2 nodes are available: 2 Insufficient nvidia.com/gpu."
    assert unplaced(text, a=gpu_node(0), b=gpu_node(0)) == [("unschedulable", "no-device-plugin")]
    assert unplaced(text, gpus=8, a=gpu_node(0), b=gpu_node(4)) == [("unschedulable", "too-many-gpus")]
    assert unplaced(text, a=gpu_node(0), b=gpu_node(4)) == [("unschedulable", "gpu")]
    # not all nodes are known
    assert unplaced(text, a=gpu_node(0)) == [("unschedulable", "gpu")]


def test_a_taint_of_the_gpu_nodes_is_the_reason_and_not_that_the_others_have_no_gpu():
    text = "0/2 nodes are available: 1 Insufficient nvidia.com/gpu, 1 node(s) had untolerated taint(s)."
    assert unplaced(text, a=gpu_node(0), b=gpu_node(4, "dedicated")) == [("unschedulable", "taint")]


# -- two writers


def fight(generation: int, minutes: int, *writers: tuple[str, str, int]):
    """Told of a Deployment of this age whose writers (manager, subresource) wrote so many seconds ago."""
    deployment = scene.deployment(SERVICE, generation=generation)
    deployment["metadata"]["creationTimestamp"] = (NOW - timedelta(minutes=minutes)).isoformat()
    deployment["metadata"]["managedFields"] = [
        {
            "manager": who,
            "subresource": part,
            "time": (NOW - timedelta(seconds=ago)).isoformat(),
            "fieldsV1": {"f:spec": {}},
        }
        for who, part, ago in writers
    ]
    return told(diagnosed(scene.ready_pod(SERVICE), deployment=deployment))


def test_two_writers_are_told_from_an_autoscaler_and_from_a_lively_afternoon():
    yes = [("ownership", "fight")]
    # one who is undone at once leaves no entry
    assert fight(17, 1, ("manager", "", 2)) == yes
    assert fight(41, 30, ("manager", "", 20), ("argocd", "", 30)) == yes
    assert fight(41, 30, ("manager", "", 20), ("argocd", "", 900)) == []
    assert fight(500, 60 * 24 * 20, ("manager", "", 20), ("kube-controller-manager", "scale", 15)) == []
    assert fight(6, 2, ("manager", "", 20), ("kube-controller-manager", "scale", 15)) == []
    assert fight(8, 60, ("manager", "", 20), ("argocd", "", 30)) == []


# -- the order


def test_what_a_person_must_do_comes_first():
    service = scene.wanted(min_replicas=2)
    pods = [
        scene.pod(service, name="a", state=scene.waiting("ErrImagePull", "i/o timeout")),
        scene.pod(service, name="b", state=scene.waiting("ErrImagePull", REFUSED)),
    ]
    found = findings.diagnose(scene.observed(service, pods=pods), around=Around(nodes=NODES), now=NOW)
    assert [finding.variant for finding in found] == ["key", "network"]


def test_what_is_stopped_or_absent_has_no_finding():
    isvc = scene.live_isvc(SERVICE, "False")
    isvc["status"]["conditions"].append(scene.condition("Stopped"))
    assert diagnosed(scene.ready_pod(SERVICE), isvc=isvc) == []
    assert diagnosed(scene.ready_pod(SERVICE), isvc=None) == []
