# SPDX-License-Identifier: GPL-3.0-or-later
"""Brings faults about and looks again and again at what is said of them, as fast as it goes."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ansible_collections.gpuops.nim.plugins.module_utils._kube.client import Client
from ansible_collections.gpuops.nim.plugins.module_utils._nim.findings import Finding
from ansible_collections.gpuops.nim.plugins.module_utils._ops.inspect import inspect

from .expected import EXPECTED, UNSURE
from .faults import Fault
from .stage import Acts, Scenes, Stage

WAVE = 75.0  # seconds for those that are brought about at once
SCENE = 100.0  # for one that breaks the cluster
PATIENCE = 180.0  # and, in the end, for what is late


def spelt(finding: Finding) -> str:
    return f"{finding.id}/{finding.variant}" if finding.variant else finding.id


@dataclass
class Trial:
    """What was said of one fault. said: seconds since it was there, and the first finding, each time that changed.

    named: seconds until the right cause was the first finding; None if it never was. evidence: of the last findings.
    """

    fault: Fault
    begun: float
    said: list[tuple[float, str]] = field(default_factory=list)
    findings: Sequence[Finding] = ()
    named: float | None = None

    def look(self, findings: Sequence[Finding], now: float) -> None:
        self.findings = findings or self.findings
        first = spelt(findings[0]) if findings else ""
        if first != (self.said[-1][1] if self.said else ""):
            self.said.append((round(now - self.begun, 1), first))
        if self.named is None and first in self.expected:
            self.named = now - self.begun

    @property
    def expected(self) -> Sequence[str]:
        return EXPECTED.get(self.fault.name, ())

    @property
    def wrong(self) -> list[str]:
        """Causes that stood first and were another's, until the right one did."""
        until = float("inf") if self.named is None else self.named
        return [one for at, one in self.said if one and at <= until and one not in (*self.expected, *UNSURE)]


Confirm = Callable[[Mapping[str, "Trial"]], None]


class Theatre:
    """A stage, and somebody who looks."""

    def __init__(self, stage: Stage, client: Client) -> None:
        self.stage, self.client = stage, client
        self.looks: list[float] = []  # seconds that each took

    def together(self, waves: Sequence[Sequence[Fault]], confirm: Confirm) -> dict[str, Trial]:
        """Each wave at once. The next one comes when all of it is named, or late; what isn't is watched to the end.

        confirm: asked about the services of a wave, when it is over, before those that are named go.
        """
        trials: dict[str, Trial] = {}
        players: list[threading.Thread] = []
        for wave in waves:
            begun = time.monotonic()
            self.stage.deploy(wave)
            of_wave = {fault.name: Trial(fault, begun) for fault in wave}
            trials |= of_wave
            for fault in wave:
                if fault.act:
                    players.append(threading.Thread(target=self._act, args=(trials[fault.name],), daemon=True))
                    players[-1].start()
            quick = [trial for trial in of_wave.values() if not trial.fault.slow]
            self._watch(trials, quick, begun + WAVE)
            self._end(of_wave, confirm)
        late = {name: trial for name, trial in trials.items() if not _done(trial)}
        self._watch(late, list(late.values()), time.monotonic() + PATIENCE)
        self._end(late, confirm)
        self.stage.over.set()
        for player in players:
            player.join(30)
        self.stage.over.clear()
        return trials

    def _end(self, trials: Mapping[str, Trial], confirm: Confirm) -> None:
        confirm(trials)
        self.stage.remove([trial.fault for trial in trials.values() if _done(trial)])

    def scene(self, faults: Sequence[Fault], confirm: Confirm) -> dict[str, Trial]:
        """They break the cluster; afterwards it is whole again, and the services are gone."""
        by_scene: dict[str, list[Fault]] = {}
        for fault in faults:
            by_scene.setdefault(fault.alone, []).append(fault)
        try:
            with contextlib.ExitStack() as stack:
                trials: dict[str, Trial] = {}
                for name, these in by_scene.items():
                    stack.enter_context(getattr(Scenes(self.stage), name)(these))
                    trials |= {fault.name: Trial(fault, time.monotonic()) for fault in these}
                self._watch(trials, list(trials.values()), time.monotonic() + SCENE)
                confirm(trials)
        finally:
            self.stage.remove(faults)
        return trials

    def _act(self, trial: Trial) -> None:
        def here() -> None:
            trial.begun, trial.said = time.monotonic(), []

        getattr(Acts(self.stage, here), trial.fault.act)(trial.fault)

    def _watch(self, trials: Mapping[str, Trial], until: Sequence[Trial], end: float) -> None:
        """Look at all trials until these are named, or the time is over."""
        namespaces = sorted({self.stage.namespaces[trial.fault.place] for trial in trials.values()})
        while time.monotonic() < end and not all(map(_done, until)):
            begun = time.monotonic()
            found = inspect(self.client, namespaces, [])
            now = time.monotonic()
            self.looks.append(now - begun)
            for service in found:
                trial = trials.get(service.name)
                if trial and trial.begun <= begun:
                    trial.look(service.findings, now)
            time.sleep(max(0.0, 1 - (now - begun)))


def _done(trial: Trial) -> bool:
    return trial.named is not None or not trial.expected


def share(trials: Iterable[Trial]) -> float:
    """Which part of them was named right."""
    judged = list(trials)
    return sum(trial.named is not None for trial in judged) / len(judged)
