# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""One wait for many services: until each is ready, has failed for good, or the time is up."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ansible_collections.gpuops.nim.plugins.module_utils._kube.client import Client
from ansible_collections.gpuops.nim.plugins.module_utils._kube.errors import KubeError
from ansible_collections.gpuops.nim.plugins.module_utils._kube.nudge import nudge
from ansible_collections.gpuops.nim.plugins.module_utils._kube.watch import Group, Mirror, Query
from ansible_collections.gpuops.nim.plugins.module_utils._nim import findings, manifests, states
from ansible_collections.gpuops.nim.plugins.module_utils._ops.around import AGAIN, Surroundings
from ansible_collections.gpuops.nim.plugins.module_utils._ops.result import Progress

HEARTBEAT = 30.0  # seconds
MANY = 5  # more services than this share a line of the heartbeat
LATE = 5.0  # seconds without any change, after which a service is looked at more closely
FRESH = 3.0  # seconds in which a controller that was nudged has tried again

Object = Mapping[str, Any]
Clock = Callable[[], float]


@dataclass(frozen=True)
class Target:
    """A service to wait for.

    ``wanted`` is its InferenceService as the server answered it, ``None`` for whatever is there. ``settled``: this run
    has not changed it, so pods that fail now did so before and get one fresh try (a new key is only read by a new pod).
    ``leaving``: pods that go once the service is ready without them.
    """

    namespace: str
    name: str
    wanted: Object | None = None
    settled: bool = False
    leaving: frozenset[str] = frozenset()

    @property
    def key(self) -> tuple[str, str]:
        return self.namespace, self.name

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True)
class Outcome:
    """``error``: empty for a service that is ready; ``waited``: seconds; ``restarted``: pods deleted for a new try."""

    status: states.Status
    findings: tuple[findings.Finding, ...] = ()
    error: str = ""
    waited: float = 0.0
    restarted: tuple[str, ...] = ()


def queries(namespaces: Iterable[str]) -> list[Query]:
    """What has to be watched to judge the services of these namespaces."""
    return [
        query
        for namespace in sorted(set(namespaces))
        for query in (
            Query(manifests.API_VERSION, manifests.KIND, namespace),
            Query("apps/v1", "Deployment", namespace, labels=manifests.ISVC_LABEL),
            Query("apps/v1", "ReplicaSet", namespace, labels=manifests.ISVC_LABEL),
            Query("v1", "Pod", namespace, labels=manifests.ISVC_LABEL),
            Query("v1", "Event", namespace, fields="involvedObject.kind=Pod"),
        )
    ]


def look(
    client: Client, targets: Sequence[Target], ignored: frozenset[str] = frozenset()
) -> dict[tuple[str, str], Outcome]:
    """Judge the services once, without waiting."""
    found: dict[tuple[str, Group], list[dict[str, Any]]] = defaultdict(list)
    for query in queries(target.namespace for target in targets):
        for obj in client.list(
            query.api_version, query.kind, query.namespace, labels=query.labels, fields=query.fields
        ).items:
            found[query.kind, None].append(obj)
            found[query.kind, belongs_to(obj)].append(obj)
    scene = Scene(lambda kind, group=None: found[kind, group])
    outcomes = {}
    for target in targets:
        seen = scene.of(target)
        settled = target.settled or target.wanted is None
        status = states.status_of(target.wanted, seen, ignored, settled=settled)
        causes = () if status.ready or not status.current else tuple(findings.find(seen, neighbours=scene.pods(target)))
        outcomes[target.key] = Outcome(status, causes)
    return outcomes


def wait_until_ready(
    client: Client,
    targets: Sequence[Target],
    *,
    timeout: float,
    progress: Progress,
    grace: float,
    ignored: frozenset[str] = frozenset(),
    clock: Clock = time.monotonic,
) -> dict[tuple[str, str], Outcome]:
    """Wait for all services at once and return how each ended. One that fails does not end the wait for the others.

    :param timeout: seconds for all together; ``grace``: seconds that a cause which may pass (no free GPU) must last.
    :raises KubeError: the cluster can't be watched at all (a right is missing, a kind is not there).
    """
    wait = _Wait(client, targets, timeout, progress, grace, ignored, clock)
    with Mirror(client, queries(target.namespace for target in targets), group=belongs_to) as mirror:
        return wait.run(mirror)


def wait_until_gone(
    client: Client,
    targets: Sequence[Target],
    *,
    timeout: float,
    progress: Progress,
    stopped: bool = False,
    clock: Clock = time.monotonic,
) -> dict[tuple[str, str], str]:
    """Wait until the services and their last pods are gone; return what is left of those that are not in time.

    :param stopped: the services themselves stay, without a Deployment.
    """
    begun = clock()
    wanted = [
        query
        for namespace in sorted({target.namespace for target in targets})
        for query in (
            Query("apps/v1", "Deployment", namespace, labels=manifests.ISVC_LABEL)
            if stopped
            else Query(manifests.API_VERSION, manifests.KIND, namespace),
            Query("v1", "Pod", namespace, labels=manifests.ISVC_LABEL),
        )
    ]
    with Mirror(client, wanted, group=belongs_to) as mirror:
        scene = Scene(mirror.objects)
        listed, beat = False, begun + HEARTBEAT
        said: dict[tuple[str, str], str] = {}
        while True:
            now = clock()
            listed = mirror.wait(max(min(begun + timeout, beat) - now, 0)) or listed
            now = clock()
            left = {target.key: scene.remains(target) if listed else "" for target in targets}
            open_ = [target for target in targets if left[target.key] or not listed]
            if not open_ and listed:
                return {}
            due = now >= beat
            beat = now + HEARTBEAT if due else beat
            for target in open_:
                if due or said.get(target.key) != left[target.key]:
                    said[target.key] = left[target.key]
                    progress(
                        f"[{target}] ending ({now - begun:.0f} s): "
                        f"{left[target.key] or mirror.trouble() or 'is looked for'}"
                    )
            if now - begun >= timeout:
                around = Surroundings(client, clock)
                return {
                    target.key: "\n".join(
                        [
                            left[target.key] or mirror.trouble() or "the cluster has not answered",
                            *(finding.text() for finding in around.lost_nodes(scene.of(target).pods)),
                        ]
                    )
                    for target in open_
                }


def belongs_to(obj: Object) -> Group:
    """Which service an object belongs to, by namespace and name; of an event, the uid of the pod that it is about."""
    if obj["kind"] == "Event":
        return str(obj.get("involvedObject", {}).get("uid"))
    meta = obj["metadata"]
    if obj["kind"] == manifests.KIND:
        return meta["namespace"], meta["name"]
    labels = meta.get("labels") or {}
    if labels.get("component", "predictor") != "predictor":
        return ""
    return meta["namespace"], str(labels.get(manifests.ISVC_LABEL))


class Scene:
    """The objects of the cluster, by service. ``objects`` gives those of a kind, or of a kind and a group."""

    def __init__(self, objects: Callable[..., list[dict[str, Any]]]) -> None:
        self._objects = objects

    def of(self, target: Target) -> states.Observed:
        pods = self._objects("Pod", target.key)
        return states.Observed(
            isvc=next(iter(self._objects(manifests.KIND, target.key)), None),
            deployment=next(
                (
                    deployment
                    for deployment in self._objects("Deployment", target.key)
                    if deployment["metadata"]["name"] == f"{target.name}-predictor"
                ),
                None,
            ),
            replicasets=self._objects("ReplicaSet", target.key),
            pods=pods,
            events=[event for uid in _uids(pods) for event in self._objects("Event", uid)],
        )

    def touched(self, target: Target, groups: set[Group]) -> bool:
        """Whether one of these groups is the service, or the events of one of its pods."""
        return target.key in groups or not groups.isdisjoint(_uids(self._objects("Pod", target.key)))

    def pods(self, target: Target) -> list[Object]:
        """The pods of the namespace's other services."""
        return [
            pod
            for pod in self._objects("Pod")
            if pod["metadata"]["namespace"] == target.namespace and belongs_to(pod) not in (target.key, "")
        ]

    def remains(self, target: Target) -> str:
        pods = [pod["metadata"]["name"] for pod in self._objects("Pod", target.key)]
        if pods:
            return f"pod {', '.join(pods)} {'is' if len(pods) == 1 else 'are'} still ending"
        rest = self._objects(manifests.KIND, target.key) or self._objects("Deployment", target.key)
        if not rest:
            return ""
        finalizers = ", ".join(rest[0]["metadata"].get("finalizers") or ())
        return (
            f"KServe is still cleaning up{f' ({finalizers})' if finalizers else ''}; if this lasts, see whether its "
            "controller runs: kubectl get pods -A -l control-plane=kserve-controller-manager"
        )


def _uids(pods: Iterable[Object]) -> list[str]:
    return [str(pod["metadata"].get("uid")) for pod in pods]


@dataclass
class _Open:
    """What the wait remembers of a service that is not done."""

    target: Target
    said: tuple[str, str] = ("", "")  # state and cause of the last line of progress
    status: states.Status = field(default_factory=lambda: states.Status("absent", "not looked at yet"))
    causes: list[findings.Finding] = field(default_factory=list)
    since: dict[tuple[str, str], float] = field(default_factory=dict)  # when a cause was first seen
    logs: dict[str, str] = field(default_factory=dict)  # by pod uid and restart
    restarted: tuple[str, ...] = ()
    nudged: float | None = None  # when controllers that had given up for a while were made to try again
    quiet: float = 0.0  # since when nothing has changed
    settled: bool = False  # once nothing has changed for LATE seconds
    looked: float = float("-inf")  # when it was last looked at more closely
    around: findings.Around | None = None  # what was seen then


class _Wait:
    def __init__(
        self,
        client: Client,
        targets: Sequence[Target],
        timeout: float,
        progress: Progress,
        grace: float,
        ignored: frozenset[str],
        clock: Clock,
    ) -> None:
        self.client, self.progress, self.clock = client, progress, clock
        self.grace, self.ignored, self.timeout = grace, ignored, timeout
        self.total = len(targets)
        self.begun = clock()
        self.open = {target.key: _Open(target, quiet=self.begun) for target in targets}
        self.done: dict[tuple[str, str], Outcome] = {}
        self.surroundings = Surroundings(client, clock)

    def run(self, mirror: Mirror) -> dict[tuple[str, str], Outcome]:
        listed, beat, trouble = False, self.begun + HEARTBEAT, ""
        end, scene = self.begun + self.timeout, Scene(mirror.objects)
        while self.open:
            wake = min(end, beat, self._next_grace(), self._next_look())
            changed = mirror.wait(max(wake - self.clock(), 0))
            first, listed = changed and not listed, listed or changed
            now = self.clock()
            if mirror.trouble():  # what is known is old: nobody is late, and nothing has lasted
                for item in self.open.values():
                    item.quiet, item.since = now, dict.fromkeys(item.since, now)
            if listed:
                groups = mirror.changes()
                for item in list(self.open.values()):
                    if first or now >= wake or scene.touched(item.target, groups):
                        self._judge(item, scene, now, first)
            said, trouble = trouble, mirror.trouble() or ""
            if trouble and not said:
                self.progress(f"{trouble}; the wait goes on")
            if now >= beat:
                beat = now + HEARTBEAT
                self._heartbeat(now)
            if now >= end:
                for item in list(self.open.values()):
                    self._close(item, now, self._out_of_time(item, trouble))
        return self.done

    def _judge(self, item: _Open, scene: Scene, now: float, first: bool) -> None:
        target = item.target
        seen = scene.of(target)
        if first and target.settled:
            item.restarted = self._restart_stuck(target, seen)
            if self._nudge_controllers(target, seen):
                item.nudged = now
        leaving = target.leaving.union(item.restarted)
        seen = replace(seen, pods=[pod for pod in seen.pods if pod["metadata"]["name"] not in leaving])
        item.settled = item.settled or now - item.quiet >= LATE
        before, item.status = item.status, states.status_of(target.wanted, seen, self.ignored, settled=item.settled)
        item.causes = []
        if (before.state, before.detail) != (item.status.state, item.status.detail):
            item.quiet, item.around = now, None
        if item.status.ready:
            self._close(item, now, "")
            return
        if item.status.state == "failed":
            if target.settled or now - item.quiet >= LATE:  # else KServe may have said it of what was there before
                self._close(item, now, item.status.detail)
            return
        if item.status.current:  # else the pods are those of another specification
            self._fetch_logs(item, seen)
        if now - item.quiet >= LATE and now - item.looked >= AGAIN:
            self._look_closer(item, seen, now)
        final = self._final(item, seen, scene, now)
        if any(f.lasting for f in final) and item.around is None:
            self._look_closer(item, seen, now)
            final = [f for f in self._final(item, seen, scene, now) if not f.lasting or item.around]
        if final:
            item.status = replace(item.status, state="failed")
            self._close(item, now, "\n".join(f.text() for f in final[:2]))
            return
        said = (item.status.state, item.causes[0].cause if item.causes else "")
        if said != item.said:
            item.said = said
            self._say(item, now)

    def _final(self, item: _Open, seen: states.Observed, scene: Scene, now: float) -> list[findings.Finding]:
        """Find the causes; return those that have lasted long enough to end the wait."""
        item.causes = findings.find(
            seen,
            current=item.status.current,
            logs=item.logs,
            neighbours=scene.pods(item.target),
            around=item.around,
        )
        item.since = {(f.id, f.variant): item.since.get((f.id, f.variant), now) for f in item.causes}
        return [f for f in item.causes if not f.heals and now >= self._believed(item, f)]

    def _believed(self, item: _Open, finding: findings.Finding) -> float:
        """From when on the finding ends the wait, if it is still there."""
        since = item.since[(finding.id, finding.variant)]
        fresh = item.nudged + FRESH if item.nudged is not None and finding.id in findings.REFUSALS else since
        return max(since + self.grace if finding.lasting else since, fresh)

    def _look_closer(self, item: _Open, seen: states.Observed, now: float) -> None:
        item.looked, item.around = now, self.surroundings.of(seen)

    def _next_look(self) -> float:
        return min((max(item.quiet + LATE, item.looked + AGAIN) for item in self.open.values()), default=float("inf"))

    def _next_grace(self) -> float:
        """When the next cause that must last will have lasted."""
        now = self.clock()
        times = [self._believed(item, f) for item in self.open.values() for f in item.causes if not f.heals]
        return min((time for time in times if time > now), default=float("inf"))

    def _say(self, item: _Open, now: float) -> None:
        detail = item.causes[0].cause if item.causes else item.status.detail
        self.progress(f"[{item.target}] {item.status.state} ({now - self.begun:.0f} s): {detail}")

    def _heartbeat(self, now: float) -> None:
        waiting = list(self.open.values())
        if len(waiting) <= MANY:
            for item in waiting:
                self._say(item, now)
            return
        some = ", ".join(f"{item.target} {item.status.state}" for item in waiting[:MANY])
        self.progress(f"{len(self.done)} of {self.total} services are done ({now - self.begun:.0f} s); {some}, …")

    def _close(self, item: _Open, now: float, error: str) -> None:
        del self.open[item.target.key]
        status = item.status
        self.done[item.target.key] = Outcome(
            status, tuple(item.causes), error, round(now - self.begun, 1), item.restarted
        )
        phases = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in status.phases.items())
        text = (
            item.causes[0].cause
            if error and item.causes
            else error or status.detail + (f" ({phases})" if phases else "")
        )
        self.progress(f"[{item.target}] {status.state} ({now - self.begun:.0f} s): {text}")

    def _out_of_time(self, item: _Open, trouble: str) -> str:
        parts = [f"not ready after {self.timeout:.0f} s (wait_timeout); {item.status.state}: {item.status.detail}"]
        parts += [finding.text() for finding in item.causes[:2]]
        parts += [trouble] if trouble else []
        return "\n".join(parts)

    def _restart_stuck(self, target: Target, seen: states.Observed) -> tuple[str, ...]:
        """Delete pods that failed before this run: the kubelet pauses up to 5 min before it reads a repaired secret."""
        restarted = []
        for pod in states.newest(seen)[1]:
            waiting = states.main_container(pod).get("state", {}).get("waiting", {}).get("reason")
            if waiting not in states.PULL_REASONS | states.CONFIG_REASONS | {states.CRASH_REASON}:
                continue
            name = pod["metadata"]["name"]
            try:
                self.client.delete(
                    "v1", "Pod", name, target.namespace, propagation="Background", uid=pod["metadata"].get("uid")
                )
            except KubeError:  # the finding will say what is wrong with it as it is
                continue
            self.progress(f"[{target}] pod {name} was stuck ({waiting}) before this run: a new one gets a fresh try")
            restarted.append(name)
        return tuple(restarted)

    def _nudge_controllers(self, target: Target, seen: states.Observed) -> bool:
        """Have what was refused before this run tried again now: what stood in the way may be gone."""
        stuck = []
        if states.condition(seen.isvc or {}, "PredictorReady").get("reason") == states.RECONCILE_FAILED:
            stuck.append(seen.isvc)
        newest = states.newest_set(seen)
        if states.condition(newest or {}, "ReplicaFailure").get("status") == "True":
            stuck.append(newest)
        nudged = [obj for obj in stuck if obj and nudge(self.client, dict(obj))]
        if nudged:
            self.progress(f"[{target}] what was refused before this run is tried again")
        return bool(nudged)

    def _fetch_logs(self, item: _Open, seen: states.Observed) -> None:
        for pod in states.newest(seen)[1]:
            status = states.main_container(pod)
            uid, tries = str(pod["metadata"].get("uid")), status.get("restartCount", 0)
            crashed = status.get("state", {}).get("waiting", {}).get("reason") == states.CRASH_REASON
            if crashed and f"{uid}/{tries}" not in item.logs:
                text = self._log(item.target.namespace, pod["metadata"]["name"], status.get("name", ""))
                item.logs[uid] = item.logs[f"{uid}/{tries}"] = text

    def _log(self, namespace: str, pod: str, container: str) -> str:
        query = {"container": container, "previous": "true", "tailLines": str(findings.LOG_LINES * 2)}
        try:
            answer = self.client.request(
                "GET", f"/api/v1/namespaces/{namespace}/pods/{pod}/log", query=query, retry=False, timeout=5
            )
            return str(answer.body.decode(errors="replace"))
        except KubeError as error:
            return f"(the log can't be read: {error.message})"
