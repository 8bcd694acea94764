# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: Contributors to gpuops.nim
"""The wait, played frame by frame: each is what the cluster holds at a second of a clock that the test turns."""

from __future__ import annotations

import copy
import json
import zlib

import pytest

from ansible_collections.gpuops.nim.plugins.module_utils._kube import watch
from ansible_collections.gpuops.nim.plugins.module_utils._kube.client import Listing
from ansible_collections.gpuops.nim.plugins.module_utils._kube.errors import KubeError, Unreachable
from ansible_collections.gpuops.nim.plugins.module_utils._nim import manifests, names, states
from ansible_collections.gpuops.nim.plugins.module_utils._ops import wait
from ansible_collections.gpuops.nim.tests.unit.plugins.module_utils import scene

SERVICE = scene.wanted()
KEY = ("default", "llama3-8b-instruct")
REFUSED = (
    "failed to fetch oauth token: unexpected status from GET request to https://nvcr.io/proxy_auth: 401 Unauthorized"
)


def frame(service=SERVICE, **changes):
    """One moment of the cluster, as the mirror holds it."""
    seen = scene.observed(service, **changes)
    return {
        manifests.KIND: [seen.isvc] if seen.isvc else [],
        "Deployment": [seen.deployment] if seen.deployment else [],
        "ReplicaSet": list(seen.replicasets),
        "Pod": list(seen.pods),
        "Event": list(seen.events),
    }


LOADING = frame(pods=[scene.pod(SERVICE, state=scene.RUNNING)])
READY = frame()
STUCK = frame(pods=[scene.pod(SERVICE, state=scene.waiting("ErrImagePull", REFUSED))])
NO_GPU = frame(pods=[scene.pending_pod(SERVICE, 1, "0/1 nodes are available: 1 Insufficient nvidia.com/gpu.")])


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


class Mirror(watch.Mirror):
    """Turns the clock to the next frame, or by the timeout if that comes first."""

    def __init__(self, client, queries, group, clock, frames, trouble=None):
        super().__init__(client, queries, group=group)
        self.clock, self.frames, self.said, self.begun = clock, sorted(frames.items()), trouble, clock()

    def __enter__(self):
        return self

    def close(self):
        pass

    def wait(self, timeout):
        if self.frames and self.begun + self.frames[0][0] <= self.clock.now + timeout:
            at, current = self.frames.pop(0)
            self.clock.now = max(self.clock.now, self.begun + at)
            for feed in self._feeds:
                kind, namespace = feed.query.kind, feed.query.namespace
                now = [{"kind": kind, **obj} for obj in current[kind] if obj["metadata"]["namespace"] == namespace]
                self.listed(feed, [with_version(obj) for obj in now])
            return True
        self.clock.now += timeout
        return False

    def trouble(self):
        return self.said


def with_version(obj):
    version = str(zlib.crc32(json.dumps(obj).encode()))
    return {**obj, "metadata": {**obj["metadata"], "resourceVersion": version}}


class Client:
    def __init__(self, log=b"", beside=()):
        self.log, self.deleted, self.asked, self.beside = log, [], [], beside

    def list(self, api_version, kind, namespace=None, **rest):
        if isinstance(self.beside, Exception):
            raise self.beside
        return Listing([obj for obj in self.beside if obj["kind"] == kind], "1")

    def delete(self, api_version, kind, name, namespace, **rest):
        self.deleted.append((kind, name, rest["uid"]))
        return True

    def request(self, method, path, **rest):
        self.asked.append((path, rest["query"]["previous"]))
        if isinstance(self.log, Exception):
            raise self.log
        return type("Answer", (), {"body": self.log})


@pytest.fixture
def play(monkeypatch):
    def play(frames, *, targets=None, timeout=600, grace=60, client=None, trouble=None):
        clock, lines = Clock(), []
        monkeypatch.setattr(wait, "Mirror", lambda *args, group: Mirror(*args, group, clock, frames, trouble))
        outcomes = wait.wait_until_ready(
            client or Client(),
            targets or [wait.Target(*KEY, SERVICE)],
            timeout=timeout,
            progress=lines.append,
            grace=grace,
            clock=clock,
        )
        return outcomes, lines

    return play


def test_until_ready_with_a_line_for_each_state(play):
    outcomes, lines = play({0: LOADING, 3: LOADING, 7: READY})
    outcome = outcomes[KEY]
    assert (outcome.status.ready, outcome.error, outcome.waited) == (True, "", 7.0)
    assert [line.split(":")[0] for line in lines] == [
        "[default/llama3-8b-instruct] loading (0 s)",
        "[default/llama3-8b-instruct] ready (7 s)",
    ]


def test_a_heartbeat_every_30_seconds(play):
    _, lines = play({0: LOADING, 65: READY})
    assert [line.split("(")[1].split(")")[0] for line in lines] == ["0 s", "30 s", "60 s", "65 s"]


def test_a_refused_key_ends_the_wait_at_once(play):
    outcomes, _ = play({0: LOADING, 2: STUCK, 500: READY})
    outcome = outcomes[KEY]
    assert (outcome.waited, outcome.status.state, outcome.findings[0].variant) == (2.0, "failed", "key")
    assert "401" in outcome.error
    assert "nim_secret" in outcome.error


def test_an_outage_of_the_registry_does_not(play):
    busy = frame(pods=[scene.pod(SERVICE, state=scene.waiting("ErrImagePull", "503 Service Unavailable"))])
    outcomes, lines = play({0: busy, 300: READY})
    assert outcomes[KEY].status.ready
    assert "busy" in lines[0]


def test_no_gpu_counts_after_the_grace_time_though_nothing_changes(play):
    outcomes, _ = play({0: NO_GPU})
    assert outcomes[KEY].waited == 60.0
    assert outcomes[KEY].findings[0].id == "unschedulable"


def test_a_gpu_that_comes_free_within_the_grace_time(play):
    outcomes, _ = play({0: NO_GPU, 59: LOADING, 90: READY})
    assert outcomes[KEY].status.ready


def test_who_holds_the_gpus_is_said(play):
    container = {"name": "c", "resources": {"limits": {"nvidia.com/gpu": "4"}}}
    holder = {"kind": "Pod", "metadata": {"name": "big", "namespace": "other"}, "status": {"phase": "Running"}}
    holder["spec"] = {"nodeName": "rehearsal", "containers": [container]}
    outcomes, _ = play({0: NO_GPU}, client=Client(beside=[holder]), grace=1)
    assert "other/big (4)" in outcomes[KEY].error


def test_nobody_is_blamed_while_the_api_server_does_not_answer(play):
    outcomes, _ = play({0: NO_GPU, 300: READY}, client=Client(beside=Unreachable("it is away")))
    assert outcomes[KEY].status.ready


def test_a_controller_that_does_not_act_ends_the_wait_after_the_grace_time(play):
    nothing = frame(deployment=None, replicasets=[], pods=[])
    outcomes, lines = play({0: nothing})
    assert outcomes[KEY].findings[0].id == "controller-silent"
    assert outcomes[KEY].waited == wait.LATE + 60
    assert "KServe has not made the Deployment yet" in lines[0]
    assert "KServe's controller has not acted" in lines[1]
    assert play({0: nothing, wait.LATE + 59: LOADING, 300: READY})[0][KEY].status.ready


def test_what_was_refused_before_gets_another_try(play, monkeypatch):
    """The old refusal is still there when the wait begins; it counts if the controllers refuse again."""
    nudged = []
    monkeypatch.setattr(wait, "nudge", lambda client, live: nudged.append(live["metadata"]["name"]) or True)
    refusal = scene.condition("ReplicaFailure", message='violates PodSecurity "restricted"')
    refused = frame(replicasets=[{**scene.replicaset(), "status": {"conditions": [refusal]}}], pods=[])
    settled = [wait.Target(*KEY, SERVICE, settled=True)]
    assert play({0: refused, 2: LOADING, 5: READY}, targets=settled)[0][KEY].status.ready
    assert nudged == ["rs-1"]
    outcomes, _ = play({0: refused}, targets=settled)
    assert outcomes[KEY].findings[0].variant == "pod-security"
    assert outcomes[KEY].waited == wait.FRESH
    assert play({0: refused})[0][KEY].waited == 0


def test_what_kserve_said_of_the_specification_before_is_no_verdict_on_this_one(play):
    invalid = scene.live_isvc(SERVICE, "False")
    failure = {"reason": "RuntimeNotRecognized", "message": "no such runtime"}
    invalid["status"]["modelStatus"] = {"transitionStatus": "InvalidSpec", "lastFailureInfo": failure}
    refused = frame(isvc=invalid, deployment=None, replicasets=[], pods=[])
    assert play({0: refused, 1: LOADING, 9: READY})[0][KEY].status.ready
    outcome = play({0: refused})[0][KEY]
    assert (outcome.waited, "no such runtime" in outcome.error) == (wait.LATE, True)
    unchanged = play({0: refused}, targets=[wait.Target(*KEY, SERVICE, settled=True)])[0][KEY]
    assert (unchanged.waited, "no such runtime" in unchanged.error) == (0, True)


def test_a_policy_that_changes_deployments_costs_some_seconds(play):
    at, deployment = "2026-11-22T17:00:00Z", scene.deployment(SERVICE)
    deployment["spec"]["template"]["spec"]["tolerations"] = [{"operator": "Exists"}]
    changed = {"isvc": scene.written(scene.live_isvc(SERVICE), at), "deployment": scene.written(deployment, at)}
    loading = frame(pods=[scene.pod(SERVICE, state=scene.RUNNING)], **changed)
    outcome = play({0: loading, 90: frame(**changed)})[0][KEY]
    assert (outcome.status.ready, outcome.waited) == (True, 90.0)
    assert play({0: frame(**changed)})[0][KEY].waited == wait.LATE


def test_a_rotation_that_was_cut_off_is_not_waited_for_until_the_end(play):
    old = scene.ready_pod(SERVICE, name="old")
    del old["metadata"]["labels"][states.TEMPLATE_HASH]
    old["metadata"]["annotations"] = {names.ASIDE_ANNOTATION: "{}"}
    both = frame(pods=[scene.ready_pod(SERVICE), old])
    outcome = play({0: both})[0][KEY]
    assert (outcome.waited, outcome.findings[0].variant) == (60.0, "set-aside")
    assert "gpuops.nim.rotate_key" in outcome.error
    assert play({0: both, 50: READY})[0][KEY].status.ready  # it was under way


def test_grace_starts_anew_for_another_cause(play):
    taint = frame(
        pods=[scene.pending_pod(SERVICE, 1, "0/1 nodes are available: 1 node(s) had untolerated taint {a: b}.")]
    )
    outcomes, _ = play({0: NO_GPU, 50: taint, 100: READY})
    assert outcomes[KEY].status.ready


def test_a_timeout_says_what_was_missing(play):
    outcomes, _ = play({0: LOADING}, timeout=100, trouble="the API server has not answered for 9 s: connection refused")
    error = outcomes[KEY].error
    assert outcomes[KEY].waited == 100.0
    for words in ("not ready after 100 s", "loads the model", "connection refused"):
        assert words in error


def test_a_cluster_that_never_answers_is_not_called_absent_at_once(play):
    outcomes, _ = play({}, timeout=50, trouble="the API server has not answered for 50 s: connection refused")
    assert outcomes[KEY].waited == 50.0
    assert "connection refused" in outcomes[KEY].error


def test_a_crash_loop_brings_the_log(play):
    crash = frame(
        pods=[
            scene.pod(
                SERVICE,
                state=scene.waiting("CrashLoopBackOff"),
                lastState={"terminated": {"exitCode": 3}},
                restartCount=1,
            )
        ]
    )
    client = Client(b"starting\nValueError: no such model\n")
    outcomes, _ = play({0: LOADING, 5: crash}, client=client)
    assert "exit code 3" in outcomes[KEY].error
    assert "ValueError: no such model" in outcomes[KEY].error
    assert [previous for _, previous in client.asked] == ["true"]


def test_a_log_that_can_not_be_read_is_no_reason_to_hide_the_cause(play):
    crash = frame(pods=[scene.pod(SERVICE, state=scene.waiting("CrashLoopBackOff"), restartCount=1)])
    outcomes, _ = play({0: crash}, client=Client(Unreachable("no kubelet")))
    assert outcomes[KEY].findings[0].id == "crash-loop"
    assert "no kubelet" in outcomes[KEY].error


def test_pods_that_failed_before_this_run_get_a_fresh_try(play):
    """The kubelet's back-off outlives a repaired key; what it says of the old one is no verdict on the new one."""
    client = Client()
    old = STUCK["Pod"][0]
    fresh = frame(pods=[scene.ready_pod(SERVICE, name="fresh")])
    target = wait.Target(*KEY, SERVICE, settled=True)
    outcomes, _ = play({0: STUCK, 1: STUCK, 2: frame(pods=[]), 5: fresh}, targets=[target], client=client)
    assert outcomes[KEY].status.ready
    assert client.deleted == [("Pod", old["metadata"]["name"], old["metadata"]["uid"])]
    assert outcomes[KEY].restarted == (old["metadata"]["name"],)


def test_a_fresh_pod_that_fails_again_is_a_failure(play):
    again = copy.deepcopy(STUCK)
    again["Pod"][0]["metadata"].update(name="fresh", uid="fresh")
    client = Client()
    target = wait.Target(*KEY, SERVICE, settled=True)
    outcomes, _ = play({0: STUCK, 2: again}, targets=[target], client=client)
    assert (outcomes[KEY].waited, len(client.deleted)) == (2.0, 1)


def test_a_pod_that_can_not_be_deleted_is_judged_as_it_is(play):
    class Refusing(Client):
        def delete(self, *args, **rest):
            raise KubeError("no right")

    target = wait.Target(*KEY, SERVICE, settled=True)
    outcomes, _ = play({0: STUCK}, targets=[target], client=Refusing())
    assert outcomes[KEY].findings[0].variant == "key"


def test_failures_of_the_old_specification_do_not_count(play):
    """The Deployment still holds the tag that can't be pulled; the new one is only in the InferenceService."""
    new = scene.wanted(image="nvcr.io/nim/meta/llama3-8b-instruct:1.0.3")
    stale = {**STUCK, manifests.KIND: [scene.live_isvc(new)]}
    done = frame(
        new,
        deployment=scene.deployment(new, revision=2),
        replicasets=[scene.replicaset(1), scene.replicaset(2)],
        pods=[scene.ready_pod(new, 2)],
    )
    outcomes, _ = play({0: stale, 4: done}, targets=[wait.Target(*KEY, new)])
    assert outcomes[KEY].status.ready


OTHER = scene.wanted(name="other")


def other_frame(**changes):
    """The same for a second service of the namespace."""
    deployment, replicaset = scene.deployment(OTHER), scene.replicaset(1)
    deployment["metadata"]["uid"] = "other-uid"
    replicaset["metadata"].update(name="other-rs", uid="other-rs", ownerReferences=[{"uid": "other-uid"}])
    replicaset["metadata"]["labels"].update({manifests.ISVC_LABEL: "other"})
    return frame(OTHER, **{"deployment": deployment, "replicasets": [replicaset], **changes})


def both(first, second):
    return {kind: [*first[kind], *second[kind]] for kind in first}


BOTH = [wait.Target(*KEY, SERVICE), wait.Target("default", "other", OTHER)]
OTHER_LOADING = other_frame(pods=[scene.pod(OTHER, name="o", state=scene.RUNNING)])
OTHER_READY = other_frame(pods=[scene.ready_pod(OTHER, name="o")])


def test_one_that_fails_does_not_stop_the_wait_for_the_others(play):
    outcomes, _ = play({0: both(STUCK, OTHER_LOADING), 9: both(STUCK, OTHER_READY)}, targets=BOTH)
    assert outcomes[KEY].findings[0].variant == "key"
    assert outcomes[("default", "other")].status.ready
    assert outcomes[("default", "other")].waited == 9.0


def test_an_event_of_a_pod_is_news_of_its_service(play):
    pulling = scene.pod(SERVICE, state=scene.waiting("ContainerCreating"))
    before = frame(pods=[pulling])
    after = frame(pods=[pulling], events=[scene.event(pulling, "Pulled", "pulled")])
    _, lines = play({0: before, 4: after, 6: READY})
    assert [line.split("] ")[1].split(":")[0] for line in lines] == ["pulling (0 s)", "starting (4 s)", "ready (6 s)"]


def test_grace_ends_while_another_service_has_news_all_the_time(play):
    frames = {at: both(NO_GPU, other_frame(pods=[scene.pod(OTHER, name=f"o{at}")])) for at in range(200)}
    outcomes, _ = play({**frames, 200: both(NO_GPU, OTHER_READY)}, targets=BOTH)
    assert outcomes[KEY].waited == 60.0
    assert outcomes[("default", "other")].waited == 200.0


def test_a_gpu_that_the_neighbour_is_about_to_free_is_waited_for(play):
    leaving = scene.ready_pod(OTHER, name="o")
    leaving["metadata"]["deletionTimestamp"] = "2026-11-22T17:00:00Z"
    outcomes, _ = play({0: both(NO_GPU, OTHER_READY), 5: both(NO_GPU, other_frame(pods=[leaving])), 90: READY})
    assert outcomes[KEY].waited == 90.0


def test_until_the_last_pod_is_gone(monkeypatch):
    clock, lines = Clock(), []
    ending = {manifests.KIND: [], "Pod": [scene.ready_pod(SERVICE)]}
    frames = {0: ending, 8: {manifests.KIND: [], "Pod": []}}
    monkeypatch.setattr(wait, "Mirror", lambda *args, group: Mirror(*args, group, clock, frames))
    target = wait.Target(*KEY)
    assert wait.wait_until_gone(Client(), [target], timeout=60, progress=lines.append, clock=clock) == {}
    assert clock.now == 1008.0
    assert "still ending" in lines[0]


def test_what_is_left_when_the_time_is_up(monkeypatch):
    clock = Clock()
    frames = {0: {manifests.KIND: [scene.live_isvc(SERVICE)], "Pod": []}}
    monkeypatch.setattr(wait, "Mirror", lambda *args, group: Mirror(*args, group, clock, frames))
    target = wait.Target(*KEY)
    left = wait.wait_until_gone(Client(), [target], timeout=60, progress=lambda line: None, clock=clock)
    assert list(left) == [KEY]
    assert clock.now == 1060.0
