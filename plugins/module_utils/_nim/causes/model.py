# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""What a rule is made of, what it may look at, and what it finds."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from ..names import CONTAINER
from ..states import Object, Observed, main_container, moment, pod_events
from .quote import quote
from .quote import time as seen_at

PAGE = "https://github.com/gpuops/gpuops.nim/blob/main/docs/findings.md"
LOG_LINES = 15


@dataclass(frozen=True)
class Finding:
    """One cause. ``id`` is the rule, ``variant`` the case in it; ``lasting``: only believed when it stays.

    ``severity``: ``error`` where a person has to act or requests are not answered, else ``warning``; ``confidence``:
    ``certain``, ``likely`` or ``possible``; ``docs``: the part of our own page that says more.
    """

    id: str
    variant: str
    cause: str
    evidence: tuple[str, ...]
    remedy: str
    heals: bool
    docs: str = PAGE
    lasting: bool = False
    severity: str = "error"
    confidence: str = "certain"

    def text(self) -> str:
        """The finding as a person reads it in an error message."""
        seen = "".join(f"\n  seen: {line}" for line in self.evidence)
        return f"{self.cause}\n  what to do: {self.remedy}{seen}"


@dataclass(frozen=True)
class Around:
    """What lies beside the objects of a service; what was not looked at, or may not be read, is missing.

    ``claims``: what is said of a claim that is not bound, by its name; ``nodes``: by name; ``pods``: of all namespaces;
    ``ingresses``, ``services``: the service's own, ``endpoint_slices`` of these; ``ingress_classes``: all;
    ``autoscalers``: those of the predictor; ``volumes``: the PersistentVolume of a claim, by the claim's name;
    ``secrets``: when each Secret that the pods name was last changed (RFC 3339), empty for one that does not exist;
    ``verdict``: of the key for the image, with ``verdict``, ``cause`` and ``remedy``; ``node_events``: about the pods'
    nodes; ``own_logs``: the end of what a running container says, by the pod's uid.
    """

    claims: Mapping[str, Sequence[str]] = field(default_factory=dict)
    nodes: Mapping[str, Object] = field(default_factory=dict)
    pods: Sequence[Object] = ()
    ingresses: Sequence[Object] | None = None
    ingress_classes: Sequence[Object] | None = None
    services: Sequence[Object] | None = None
    endpoint_slices: Sequence[Object] | None = None
    autoscalers: Sequence[Object] | None = None
    volumes: Mapping[str, Object] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict)
    verdict: Mapping[str, Any] | None = None
    node_events: Sequence[Object] = ()
    own_logs: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Context:
    """What a rule looks at. ``pods``: the newest revision's; ``late``: somebody may be blamed for not having acted.

    ``now``: when it was looked, for what is normal as long as it is young; ``None``: nothing counts as young.
    """

    seen: Observed
    pods: Sequence[Object]
    logs: Mapping[str, str]
    neighbours: Sequence[Object]
    around: Around
    late: bool
    now: datetime | None = None

    def young(self, stamp: Any, case: Case) -> bool:
        """Whether something that began at ``stamp`` (RFC 3339) is still part of a normal deployment."""
        began = moment(stamp)
        return self.now is not None and began is not None and (self.now - began).total_seconds() < case.patience

    def changed_since(self, secrets: Iterable[str], last: datetime | None) -> list[str]:
        """Say which of the secrets were changed after the last try, if that is known."""
        if last is None:
            return []
        times = ((name, moment(self.around.secrets.get(name))) for name in secrets)
        return [
            f"secret {name} was changed at {at:%H:%M:%S}, after the last try at {last:%H:%M:%S}"
            for name, at in times
            if at and at > last
        ]


@dataclass(frozen=True)
class Case:
    """One cause that a rule knows. ``cause`` and ``remedy`` are formats of what `Rule.finding` fills in.

    ``pattern``: what is said, in any case of letters; ``None``: told by other signs than words. ``looks``: an example.
    ``patience``: seconds for which the same is normal.
    """

    variant: str
    pattern: str | None
    cause: str
    remedy: str
    looks: str
    heals: bool = False
    lasting: bool = False
    severity: str = "error"
    confidence: str = "certain"
    patience: int = 0


@dataclass(frozen=True)
class Rule:
    """``about``: what it looks for, for the page; the first case whose pattern fits wins."""

    id: str
    about: str
    cases: tuple[Case, ...]

    def case(self, variant: str) -> Case:
        return next(case for case in self.cases if case.variant == variant)

    def first(self, text: str) -> tuple[Case, Mapping[str, str]] | None:
        """The case that the text tells, with what its pattern picked out."""
        for case in self.cases:
            match = None if case.pattern is None else re.search(case.pattern, text, re.I)
            if match:
                return case, {name: value for name, value in match.groupdict().items() if value}
        return None

    def finding(self, case: Case | str, evidence: Iterable[str], obj: Object | None = None, **values: str) -> Finding:
        """Say that this case was seen.

        :param obj: what it was seen on; its name and namespace stand for ``{name}`` and ``{namespace}``.
        """
        known = self.case(case) if isinstance(case, str) else case
        metadata, spec = (obj or {}).get("metadata", {}), (obj or {}).get("spec", {})
        words: dict[str, str] = defaultdict(str)
        words.update(
            name=metadata.get("name", ""),
            namespace=metadata.get("namespace", ""),
            secrets=", ".join(pull_secrets(spec)) or "the pull secret",
            **values,
        )
        return Finding(
            self.id,
            known.variant,
            _tidy(known.cause.format_map(words)),
            quote(evidence),
            _tidy(known.remedy.format_map(words)),
            known.heals,
            anchor(self.id, known.variant),
            known.lasting,
            known.severity,
            known.confidence,
        )


def anchor(rule: str, variant: str) -> str:
    """Where the page speaks of a case."""
    return f"{PAGE}#{rule}-{variant}"


def _tidy(text: str) -> str:
    """Take out the gap that an unknown word leaves."""
    return re.sub(r" +([.,;]|$)", r"\1", re.sub(r"(?<=\S) {2,}", " ", text))


# -- pods


def pull_secrets(spec: Object) -> list[str]:
    return [str(item.get("name")) for item in spec.get("imagePullSecrets") or ()]


def unready(pod: Object) -> Iterator[Object]:
    """The status of each container that is not ready, init containers first."""
    status = pod.get("status", {})
    for found in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
        if not found.get("ready"):
            yield found


def container_of(pod: Object, name: str = CONTAINER) -> Object:
    """The container's part of the pod's specification; the first one where none has the name."""
    spec = pod.get("spec", {})
    containers = [*(spec.get("containers") or ()), *(spec.get("initContainers") or ())]
    found: Object = next((c for c in containers if c.get("name") == name), containers[0] if containers else {})
    return found


def env_of(container: Object) -> dict[str, Object]:
    """A container's environment by name."""
    return {str(item.get("name")): item for item in container.get("env") or ()}


def env_secrets(pod: Object) -> list[str]:
    """The secrets from which the pod's containers take their environment."""
    refs = [
        (item.get("valueFrom") or {}).get("secretKeyRef") or {}
        for container in pod.get("spec", {}).get("containers") or ()
        for item in container.get("env") or ()
    ]
    return sorted({str(ref["name"]) for ref in refs if ref.get("name") and not ref.get("optional")})


def failed_probes(pod: Object, context: Context) -> list[Object]:
    """What the probes of the container's present run have met, oldest first."""
    started = moment(main_container(pod).get("state", {}).get("running", {}).get("startedAt"))
    events = pod_events(pod, context.seen.events, "Unhealthy")
    return [event for event in events if started and (at := seen_at(event)) and at >= started]
