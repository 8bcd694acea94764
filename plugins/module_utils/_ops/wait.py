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
from ansible_collections.gpuops.nim.plugins.module_utils._kube.watch import Mirror, Query
from ansible_collections.gpuops.nim.plugins.module_utils._nim import findings, manifests, states
from ansible_collections.gpuops.nim.plugins.module_utils._ops.result import Progress

HEARTBEAT = 30.0  # seconds
MANY = 5  # more services than this share a line of the heartbeat

Object = Mapping[str, Any]
Clock = Callable[[], float]


@dataclass(frozen=True)
class Target:
    """A service to wait for.

    ``wanted`` is its InferenceService as the server answered it, ``None`` for whatever is there. ``settled``: this run
    has not changed it, so pods that fail now did so before and get one fresh try (a new key is only read by a new pod).
    """

    namespace: str
    name: str
    wanted: Object | None = None
    settled: bool = False

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
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for query in queries(target.namespace for target in targets):
        found[query.kind] += client.list(
            query.api_version, query.kind, query.namespace, labels=query.labels, fields=query.fields
        ).items
    scene = _Scene(lambda kind: found[kind])
    outcomes = {}
    for target in targets:
        seen = scene.of(target)
        status = states.status_of(target.wanted, seen, ignored)
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
    with Mirror(client, queries(target.namespace for target in targets)) as mirror:
        return wait.run(mirror)


def wait_until_gone(
    client: Client, targets: Sequence[Target], *, timeout: float, progress: Progress, clock: Clock = time.monotonic
) -> dict[tuple[str, str], str]:
    """Wait until the services and their last pods are gone; return what is left of those that are not in time."""
    begun = clock()
    wanted = [
        query
        for namespace in sorted({target.namespace for target in targets})
        for query in (
            Query(manifests.API_VERSION, manifests.KIND, namespace),
            Query("v1", "Pod", namespace, labels=manifests.ISVC_LABEL),
        )
    ]
    with Mirror(client, wanted) as mirror:
        listed, beat = False, begun + HEARTBEAT
        said: dict[tuple[str, str], str] = {}
        while True:
            now = clock()
            listed = mirror.wait(max(min(begun + timeout, beat) - now, 0)) or listed
            now, scene = clock(), _Scene(mirror.objects)
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
                return {
                    target.key: left[target.key] or mirror.trouble() or "the cluster has not answered"
                    for target in open_
                }


class _Scene:
    """The objects of the cluster, by service."""

    def __init__(self, objects: Callable[[str], list[dict[str, Any]]]) -> None:
        self._by_name = {(o["metadata"]["namespace"], o["metadata"]["name"]): o for o in objects(manifests.KIND)}
        self._owned = {kind: self._group(objects(kind)) for kind in ("Deployment", "ReplicaSet", "Pod")}
        self._events: dict[str, list[Object]] = defaultdict(list)
        for event in objects("Event"):
            self._events[str(event.get("involvedObject", {}).get("uid"))].append(event)

    @staticmethod
    def _group(objects: Iterable[Object]) -> dict[tuple[str, str], list[Object]]:
        groups: dict[tuple[str, str], list[Object]] = defaultdict(list)
        for obj in objects:
            labels = obj["metadata"].get("labels") or {}
            if labels.get("component", "predictor") == "predictor":
                groups[(obj["metadata"]["namespace"], str(labels.get(manifests.ISVC_LABEL)))].append(obj)
        return groups

    def of(self, target: Target) -> states.Observed:
        deployments = [
            d
            for d in self._owned["Deployment"].get(target.key, ())
            if d["metadata"]["name"] == f"{target.name}-predictor"
        ]
        pods = self._owned["Pod"].get(target.key, [])
        return states.Observed(
            isvc=self._by_name.get(target.key),
            deployment=deployments[0] if deployments else None,
            replicasets=self._owned["ReplicaSet"].get(target.key, []),
            pods=pods,
            events=[event for pod in pods for event in self._events.get(str(pod["metadata"].get("uid")), ())],
        )

    def pods(self, target: Target) -> list[Object]:
        """The pods of the namespace's other services."""
        return [
            pod
            for (namespace, name), pods in self._owned["Pod"].items()
            if namespace == target.namespace and name != target.name
            for pod in pods
        ]

    def remains(self, target: Target) -> str:
        pods = [pod["metadata"]["name"] for pod in self._owned["Pod"].get(target.key, ())]
        if pods:
            return f"pod {', '.join(pods)} {'is' if len(pods) == 1 else 'are'} still ending"
        return "KServe is still cleaning up" if target.key in self._by_name else ""


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
        self.open = {target.key: _Open(target) for target in targets}
        self.done: dict[tuple[str, str], Outcome] = {}
        self.begun = clock()

    def run(self, mirror: Mirror) -> dict[tuple[str, str], Outcome]:
        listed, beat, trouble = False, self.begun + HEARTBEAT, ""
        end = self.begun + self.timeout
        while self.open:
            wake = min(end, beat, self._next_grace())
            changed = mirror.wait(max(wake - self.clock(), 0))
            first, listed = changed and not listed, listed or changed
            now = self.clock()
            if listed:
                scene = _Scene(mirror.objects)
                for item in list(self.open.values()):
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

    def _judge(self, item: _Open, scene: _Scene, now: float, first: bool) -> None:
        target = item.target
        seen = scene.of(target)
        if first and target.settled:
            item.restarted = self._restart_stuck(target, seen)
        seen = replace(seen, pods=[pod for pod in seen.pods if pod["metadata"]["name"] not in item.restarted])
        item.status = states.status_of(target.wanted, seen, self.ignored)
        item.causes = []
        if item.status.ready:
            self._close(item, now, "")
            return
        if item.status.state == "failed":
            self._close(item, now, item.status.detail)
            return
        if item.status.current:  # else the pods are those of another specification
            self._fetch_logs(item, seen)
            item.causes = findings.find(seen, logs=item.logs, neighbours=scene.pods(target))
        item.since = {(f.id, f.variant): item.since.get((f.id, f.variant), now) for f in item.causes}
        final = [
            f
            for f in item.causes
            if not f.heals and (not f.lasting or now - item.since[(f.id, f.variant)] >= self.grace)
        ]
        if final:
            item.status = replace(item.status, state="failed")
            self._close(item, now, "\n".join(f.text() for f in final[:2]))
            return
        said = (item.status.state, item.causes[0].cause if item.causes else "")
        if said != item.said:
            item.said = said
            self._say(item, now)

    def _next_grace(self) -> float:
        """When the next cause that must last will have lasted."""
        times = [
            item.since[(f.id, f.variant)] + self.grace
            for item in self.open.values()
            for f in item.causes
            if f.lasting and not f.heals
        ]
        return min(times, default=float("inf"))

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
            if waiting not in states.PULL_REASONS | {states.CRASH_REASON}:
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
