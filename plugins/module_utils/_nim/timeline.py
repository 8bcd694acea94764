# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""What happened to a service's pods and when: steps from creation to ready, restarts, and where it stopped.

Made from what Kubernetes still knows. Events are kept for about an hour: without them the steps between the pod's place
and its start are one, and of several restarts only the last has a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from .states import (
    CONFIG_REASONS,
    CRASH_REASON,
    PULL_REASONS,
    REVISION,
    TEMPLATE_HASH,
    Object,
    Observed,
    condition,
    main_container,
    moment,
    newest,
    newest_set,
    pod_events,
)

STEPS = (
    "creating",
    "scheduling",
    "preparing",
    "pulling",
    "starting",
    "restarting",
    "loading",
    "ready",
    "unready",
    "ending",
)
DONE, RUNNING, STUCK = "done", "running", "stuck"


@dataclass(frozen=True)
class Step:
    """``ended``: ``None`` for the step that it is in; ``outcome``: done, running, or stuck; ``said``: a word on it."""

    step: str
    began: datetime
    ended: datetime | None
    outcome: str
    said: str = ""


@dataclass(frozen=True)
class Restart:
    at: datetime
    exit_code: int | None
    reason: str


@dataclass(frozen=True)
class Row:
    """One pod; ``pod`` is empty where none could be made. ``current``: of the newest revision."""

    pod: str
    node: str
    revision: str
    current: bool
    steps: tuple[Step, ...]
    restarts: tuple[Restart, ...] = ()  # those whose time is known
    restart_count: int = 0

    @property
    def stopped_at(self) -> str:
        """The step in which it is stuck; empty if it is in none."""
        return next((step.step for step in self.steps if step.outcome == STUCK), "")

    def data(self, now: datetime) -> dict[str, Any]:
        """The row as plain data; a step that goes on has lasted until ``now``."""
        return {
            "pod": self.pod,
            "node": self.node,
            "revision": self.revision,
            "current": self.current,
            "stopped_at": self.stopped_at,
            "restart_count": self.restart_count,
            "steps": [
                {
                    "step": step.step,
                    "began": _text(step.began),
                    "ended": _text(step.ended) if step.ended else None,
                    "seconds": max(round(((step.ended or now) - step.began).total_seconds(), 1), 0.0),
                    "outcome": step.outcome,
                    "said": step.said,
                }
                for step in self.steps
            ],
            "restarts": [
                {"at": _text(restart.at), "exit_code": restart.exit_code, "reason": restart.reason}
                for restart in self.restarts
            ],
        }


def of(seen: Observed) -> list[Row]:
    """Return a row for each pod, those of the newest revision first; one without a pod where none could be made."""
    revision, new = newest(seen)
    mine = {pod["metadata"].get("uid") for pod in new}
    over = ("Failed", "Succeeded")
    old = [
        pod
        for pod in seen.pods
        if pod["metadata"].get("uid") not in mine and pod.get("status", {}).get("phase") not in over
    ]
    rows = [_row(pod, seen.events, revision, current=True) for pod in _by_age(new)]
    if not new and (begun := _begun(seen)):
        refused = condition(newest_set(seen) or {}, "ReplicaFailure").get("status") == "True"
        outcome, said = (STUCK, "refused") if refused else (RUNNING, "")
        rows.append(Row("", "", revision, True, (Step("creating", begun, None, outcome, said),)))
    return rows + [_row(pod, seen.events, _revision_of(pod, seen), current=False) for pod in _by_age(old)]


def since(seen: Observed) -> datetime | None:
    """Return when something last moved: a wish was written, or a pod took a step. ``None`` where no time is known."""
    times = [step.began for row in of(seen) if row.current for step in row.steps]
    for obj in (seen.isvc, newest_set(seen) or seen.deployment):
        meta = (obj or {}).get("metadata", {})
        written = [entry.get("time") for entry in meta.get("managedFields") or () if not entry.get("subresource")]
        times += [time for time in map(moment, (meta.get("creationTimestamp"), *written)) if time]
    return max(times, default=None)


def _begun(seen: Observed) -> datetime | None:
    """Since when pods are wanted that aren't there; ``None`` where none are wanted."""
    if seen.deployment is not None and seen.deployment.get("spec", {}).get("replicas", 1) == 0:
        return None
    if condition(seen.isvc or {}, "Stopped").get("status") == "True":
        return None
    about = newest_set(seen) or seen.deployment or seen.isvc or {}
    return moment(about.get("metadata", {}).get("creationTimestamp"))


def _by_age(pods: Iterable[Object]) -> list[Object]:
    return sorted(pods, key=lambda pod: (str(pod["metadata"].get("creationTimestamp")), pod["metadata"]["name"]))


def _revision_of(pod: Object, seen: Observed) -> str:
    mark = (pod["metadata"].get("labels") or {}).get(TEMPLATE_HASH)
    for rs in seen.replicasets:
        if mark and (rs["metadata"].get("labels") or {}).get(TEMPLATE_HASH) == mark:
            return str((rs["metadata"].get("annotations") or {}).get(REVISION, ""))
    return ""


def _row(pod: Object, events: Sequence[Object], revision: str, *, current: bool) -> Row:
    status = main_container(pod)
    return Row(
        pod["metadata"]["name"],
        str(pod.get("spec", {}).get("nodeName") or ""),
        revision,
        current,
        tuple(_steps(pod, events)),
        tuple(_restarts(status)),
        int(status.get("restartCount") or 0),
    )


def _restarts(status: Object) -> Iterator[Restart]:
    for ended in (status.get("lastState", {}).get("terminated"), status.get("state", {}).get("terminated")):
        at = moment((ended or {}).get("finishedAt"))
        if ended and at:
            yield Restart(at, ended.get("exitCode"), str(ended.get("reason") or ""))


def _steps(pod: Object, events: Sequence[Object]) -> Iterator[Step]:
    """The steps one after the other. Each begins where the last one ended; one that took no time is left out."""
    begun = moment(pod["metadata"].get("creationTimestamp"))
    if begun is None:
        return
    last = begun
    for name, end in _marks(pod, events):
        if end is None:
            continue
        if end > last or (name == "pulling" and end == last):
            yield Step(name, last, end, DONE)
            last = end
    name, outcome, said = _now(pod, events)
    if ends := moment(pod["metadata"].get("deletionTimestamp")):
        asked = _seconds_before(ends, pod["metadata"].get("deletionGracePeriodSeconds"))
        if asked > last:
            yield Step(name, last, asked, DONE, said)
        yield Step("ending", max(asked, last), None, RUNNING)
        return
    yield Step(name, last, None, outcome, said)


def _marks(pod: Object, events: Sequence[Object]) -> list[tuple[str, datetime | None]]:
    """When each step ended, in their order; ``None`` where that is not known or has not happened."""
    status = main_container(pod)
    running = moment(status.get("state", {}).get("running", {}).get("startedAt"))
    terminated = status.get("lastState", {}).get("terminated") or status.get("state", {}).get("terminated") or {}
    restarts = int(status.get("restartCount") or 0)
    pulling, pulled, started = (_first(pod, events, status, word) for word in ("Pulling", "Pulled", "Started"))
    if status.get("state", {}).get("waiting", {}).get("reason") in PULL_REASONS and not restarts:
        pulled = started = None  # of an init container, or of nothing
    first = started or (moment(terminated.get("startedAt")) if restarts <= 1 else None)
    if not restarts and running:
        first = running
    ready = condition(pod, "Ready")
    is_ready = moment(ready.get("lastTransitionTime")) if ready.get("status") == "True" else None
    lost = _lost(pod)
    placed = condition(pod, "PodScheduled")
    return [
        ("scheduling", moment(placed.get("lastTransitionTime")) if placed.get("status") == "True" else None),
        ("preparing", pulling or pulled),
        ("pulling", pulled if pulling else None),
        ("starting", first or (running if restarts else None)),
        ("restarting", running if restarts else None),
        ("loading", is_ready),
        ("ready", lost),
    ]


def _lost(pod: Object) -> datetime | None:
    """Since when a container that runs is no longer ready; ``None`` where it is, or never was."""
    ready, running = condition(pod, "Ready"), main_container(pod).get("state", {}).get("running", {})
    changed, started = moment(ready.get("lastTransitionTime")), moment(running.get("startedAt"))
    return changed if ready.get("status") == "False" and changed and started and changed > started else None


def _now(pod: Object, events: Sequence[Object]) -> tuple[str, str, str]:
    """The step that the pod is in, how it goes there, and a word on it."""
    placed = condition(pod, "PodScheduled")
    if placed.get("status") != "True":
        stuck = placed.get("status") == "False"
        return "scheduling", STUCK if stuck else RUNNING, str(placed.get("reason") or "")
    if condition(pod, "Ready").get("status") == "True":
        return "ready", RUNNING, ""
    status = main_container(pod)
    state = status.get("state", {})
    reason = str(state.get("waiting", {}).get("reason") or "")
    if reason in PULL_REASONS:
        return "pulling", STUCK, reason
    if reason in CONFIG_REASONS:
        return "starting", STUCK, reason
    if reason == CRASH_REASON or "terminated" in state:
        return "restarting", STUCK, reason or str(state["terminated"].get("reason") or "")
    if _lost(pod):
        return "unready", STUCK, str(condition(pod, "Ready").get("reason") or "")
    if "running" in state:
        return "loading", RUNNING, ""
    if _first(pod, events, status, "Pulled"):
        return "starting", RUNNING, ""
    if _first(pod, events, status, "Pulling"):
        return "pulling", RUNNING, ""
    failed = pod_events(pod, events, "FailedMount", "FailedAttachVolume", "FailedCreatePodSandBox")
    return "preparing", STUCK if failed else RUNNING, str(failed[-1].get("reason")) if failed else reason


def _first(pod: Object, events: Sequence[Object], status: Object, reason: str) -> datetime | None:
    """When this first happened to the container, by the events."""
    name = str(status.get("name") or "")
    times = [
        moment(event.get("firstTimestamp") or event.get("eventTime"))
        for event in pod_events(pod, events, reason)
        if f"{{{name}}}" in str(event.get("involvedObject", {}).get("fieldPath") or f"{{{name}}}")
    ]
    return min((time for time in times if time), default=None)


def _seconds_before(time: datetime, seconds: Any) -> datetime:
    return datetime.fromtimestamp(time.timestamp() - float(seconds or 0), timezone.utc)


def _text(time: datetime) -> str:
    return time.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
