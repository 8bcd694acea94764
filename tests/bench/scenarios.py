# SPDX-License-Identifier: GPL-3.0-or-later
"""What is measured. Every contender gets a namespace of its own, which is gone before the next one starts."""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from rehearsal import cluster, toolchain
from rehearsal.standins.ngc import KEYS

from .contenders import AGENTS, Contenders
from .meter import Run, Seen, measure, observed
from .work import Work

Say = Callable[[str], None]
NO_SUCH_TAG = "9.9.9"


class BenchmarkError(Exception):
    """A contender did not do its work; what it said is in the message."""


@dataclass
class Samples:
    """Values by (row, contender)."""

    values: dict[tuple[str, str], list[Any]] = field(default_factory=dict)

    def add(self, row: str, contender: str, value: Any) -> None:
        self.values.setdefault((row, contender), []).append(value)


@dataclass
class Benchmark:
    """``load``: seconds that a model loads; ``patience``: seconds that a wait that can't succeed may take.

    ``quiet``: nothing starts before what was there before it is gone.
    """

    contenders: Contenders
    samples: Samples
    say: Say
    load: float
    patience: int
    quiet: bool
    _number: Iterator[int] = field(default_factory=itertools.count)

    def deploy(self, count: int, repetitions: int) -> None:
        """First deploy and unchanged re-run of ``count`` services, the contenders in turn."""
        for repetition in range(repetitions):
            for name in self._in_turn(repetition):
                self.say(f"{_services(count)}, repetition {repetition + 1}: {name}")
                with self._place() as namespace:
                    self._deploy(name, Work(namespace, count, self.load))

    def warm_up(self) -> None:
        """Brings the image onto the node, and each contender's bytecode into the disk's cache; not counted."""
        for name in AGENTS:
            self.say(f"warm-up: {name}")
            with self._place() as namespace:
                self._run(name, Work(namespace, load=0))

    def wrong_key(self) -> None:
        """From the pod's event that tells of the refused key to the end, and whether the end tells of it, too."""
        for name in AGENTS:
            self.say(f"wrong key: {name}")
            with self._place() as namespace, self._watch(namespace) as seen:
                work = Work(namespace, load=0, key=KEYS["expired"], patience=self.patience)
                done = self._run(name, work, fails=True)
                deadline = time.monotonic() + 10
                while not seen.refused and time.monotonic() < deadline:  # whoever reads the pod's status may be earlier
                    time.sleep(0.1)
                self.samples.add("wrong key: seconds after the pod's event", name, done.ended - _first(seen.refused))
                self.samples.add("wrong key: named in the error", name, "401" in done.output)

    def false_answers(self) -> None:
        """A manifest without a CPU limit, which KServe's webhook adds; then a tag that nobody has, by a surge."""
        for name in AGENTS:
            self.say(f"false answers: {name}")
            with self._place() as namespace:
                work = Work(namespace, load=0, cpu_limit=False, patience=self.patience)
                self._run(name, work)
                again = self._run(name, work)
                self.samples.add("CPU limit left out: the re-run says", name, "changed" if again.changed else "ok")
                wrong = self._run(name, work.changed(tag=NO_SUCH_TAG), fails=None)
                self.samples.add("tag that can't be pulled, old pod alive: exit status", name, wrong.rc)
                self.samples.add("tag that can't be pulled: seconds", name, wrong.seconds)

    def _deploy(self, name: str, work: Work) -> None:
        with self._watch(work.namespace) as seen:
            first = self._run(name, work)
            again = self._run(name, work)
        ready, written = max(seen.ready.values()), max(seen.written.values())
        if len(seen.ready) != work.count:
            raise BenchmarkError(f"{name}: {len(seen.ready)} of {work.count} services were seen ready")
        rows = {
            "first deploy → answered chat: seconds": first.seconds,
            "beyond what the cluster did: seconds": written - first.began + first.ended - ready,
            "readiness lag: seconds": first.tasks["Wait"]["ended"] - ready,
            "first deploy: API requests": first.requests,
            "first deploy: writes": first.writes,
            "first deploy: peak memory, MiB": first.memory,
            "unchanged re-run with wait and chat: seconds": again.seconds,
            "unchanged: API requests": again.requests,
            "unchanged: writes": again.writes,
            "unchanged: peak memory, MiB": again.memory,
        }
        if work.count == 1:
            loaded = _first(seen.pod_ready) - _first(seen.running)
            rows["beyond the model's own start: seconds"] = first.seconds - loaded
        for row, value in rows.items():
            self.samples.add(f"{_services(work.count)}, {row}", name, value)

    def _run(self, name: str, work: Work, fails: bool | None = False) -> Run:
        layout = self.contenders.layout
        done = measure(layout, self.contenders.start(name, work), AGENTS[name])
        if fails is not None and bool(done.rc) != fails:
            raise BenchmarkError(f"{name} ended with {done.rc}:\n{done.output[-3000:]}")
        return done

    def _watch(self, namespace: str) -> contextlib.AbstractContextManager[Seen]:
        return observed(self.contenders.layout, namespace)

    @contextlib.contextmanager
    def _place(self) -> Iterator[str]:
        layout, namespace = self.contenders.layout, f"benchmark-{os.getpid()}-{next(self._number)}"
        try:
            yield namespace
        finally:
            remove = ("delete", "namespace", "--ignore-not-found", f"--wait={self.quiet}".lower(), namespace)
            cluster.kubectl(layout, toolchain.ready(layout), *remove)

    @staticmethod
    def _in_turn(repetition: int) -> list[str]:
        names = list(AGENTS)
        start = repetition % len(names)
        return names[start:] + names[:start]


def _first(times: dict[str, float]) -> float:
    if not times:
        raise BenchmarkError("nothing was seen of the pods")
    return min(times.values())


def _services(count: int) -> str:
    return "1 service" if count == 1 else f"{count} services"
