# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""Why a service does not come up, or does not answer: named causes, each with what was seen and what to do.

A rule only looks at pods that the rollout is waiting for. ``heals`` separates what Kubernetes will get over by itself
(an outage, a GPU that is about to be free) from what waits for a person; only the latter ends a wait.

A new cause is a `Case` in the table of its `Rule`: the words, what they mean, what to do, and an example. The first one
that fits wins, so narrow ones come first. docs/findings.md and the tests are made from the same tables.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta

from .causes import admission, controllers, prepare, pull, schedule, serving, start
from .causes.controllers import lost_node, no_such_service, operator_silent
from .causes.model import LOG_LINES, Around, Case, Context, Finding, Rule
from .causes.quote import redact
from .states import Object, Observed, condition, moment, newest

__all__ = [
    "LOG_LINES",
    "REFUSALS",
    "RULES",
    "Around",
    "Case",
    "Finding",
    "Rule",
    "diagnose",
    "find",
    "lost_node",
    "no_such_service",
    "operator_silent",
    "redact",
]

REFUSALS = frozenset({admission.PODS.id, admission.KSERVE.id})  # that a controller met when it last tried
QUIET = timedelta(seconds=15)  # without any change, after which somebody may be blamed for not having acted

RULES = (
    pull.RULE,
    start.CONFIG,
    start.MEMORY,
    start.CRASH,
    start.LOADING,
    start.PROBE,
    prepare.VOLUME,
    prepare.SANDBOX,
    prepare.EVICTED,
    schedule.RULE,
    admission.PODS,
    admission.KSERVE,
    controllers.ABSENT,
    controllers.SILENT,
    controllers.NODE,
    controllers.ROLLOUT,
    *serving.RULES,
    controllers.UNKNOWN,
)
# One trouble of a pod is told once: the first that finds something has it.
_OF_A_POD: tuple[Callable[[Object, Context], Iterable[Finding]], ...] = (
    controllers.node_lost,
    pull.refused,
    start.config_error,
    start.out_of_memory,
    start.crash_loop,
    prepare.not_prepared,
    schedule.unschedulable,
    start.loading,
    start.wrong_probe,
)
_SURE = ("certain", "likely", "possible")


def find(
    seen: Observed,
    *,
    current: bool = True,
    logs: Mapping[str, str] | None = None,
    neighbours: Sequence[Object] = (),
    around: Around | None = None,
) -> list[Finding]:
    """Return what keeps the service from being ready, the final causes first.

    :param current: the Deployment holds the wanted specification; else its pods are of no interest.
    :param logs: the end of the crashed container's log by the pod's uid.
    :param neighbours: the other services' pods of the namespace (whose end may free a GPU).
    :param around: ``None`` while the service is not late: then nobody is blamed for not having acted yet.
    """
    context = Context(seen, newest(seen)[1], logs or {}, neighbours, around or Around(), around is not None)
    found = _once(_causes(context, current))
    return sorted(found, key=lambda finding: (finding.heals, finding.lasting))


def diagnose(
    seen: Observed,
    *,
    current: bool = True,
    logs: Mapping[str, str] | None = None,
    neighbours: Sequence[Object] = (),
    around: Around | None = None,
    now: datetime | None = None,
) -> list[Finding]:
    """Return all that is wrong with the service, whether it is up or not, the worst first. One that is stopped is well.

    :param now: when it was looked, with a time zone; what is part of a normal deployment is no finding while it is
        young. Without it everything counts as old, and nobody is blamed for not having acted.
    """
    if seen.isvc is None or condition(seen.isvc, "Stopped").get("status") == "True":
        return []
    late = around is not None and now is not None and _quiet(seen, now)
    context = Context(seen, newest(seen)[1], logs or {}, neighbours, around or Around(), late, now)
    found = list(_causes(context, current))
    if current:
        found += list(serving.problems(found, context))
    ranks = {"error": 0, "warning": 1}
    return sorted(_once(found), key=lambda f: (ranks[f.severity], f.heals, f.lasting, _SURE.index(f.confidence)))


def _causes(context: Context, current: bool) -> Iterator[Finding]:
    """What keeps the service from being ready."""
    if not current:
        yield from list(admission.kserve_refused(context)) or controllers.not_acted_on(context, current)
        return
    stuck = [
        pod
        for pod in context.pods
        if condition(pod, "Ready").get("status") != "True" and "deletionTimestamp" not in pod["metadata"]
    ]
    found: list[Finding] = []
    for pod in stuck:
        found += next((told for rule in _OF_A_POD if (told := list(rule(pod, context)))), [])
    found += admission.pods_refused(context)
    found = found or list(prepare.evicted(context))
    found = found or list(admission.kserve_refused(context)) or list(controllers.not_acted_on(context, current))
    found = found or list(controllers.unknown(stuck, context))
    found = found or list(controllers.deadline(context, stuck))
    found = found or list(controllers.cut_off(context, stuck))
    yield from found


def _once(found: Iterable[Finding]) -> list[Finding]:
    """One line for ten replicas with the same trouble."""
    unique = {(finding.id, finding.variant): finding for finding in reversed(list(found))}
    return list(unique.values())


def _quiet(seen: Observed, now: datetime) -> bool:
    """Whether nothing has changed for a while."""
    stamps = [seen.isvc, seen.deployment, *seen.replicasets, *seen.pods]
    times = [moment(obj["metadata"].get("creationTimestamp")) for obj in stamps if obj]
    times += [
        moment(found.get("lastTransitionTime"))
        for obj in stamps
        if obj
        for found in obj.get("status", {}).get("conditions") or ()
    ]
    times += [
        moment(entry.get("time"))
        for obj in (seen.isvc, seen.deployment)
        if obj
        for entry in obj["metadata"].get("managedFields") or ()
    ]
    return all(now - time >= QUIET for time in times if time)
