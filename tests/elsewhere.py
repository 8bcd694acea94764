# SPDX-License-Identifier: GPL-3.0-or-later
"""A rehearsal cluster beside the machine's own, in a network namespace without a way out."""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.gpuops.nim.tests.conftest import run_program
from rehearsal.layout import Layout

_numbers = itertools.count()


@dataclass(frozen=True)
class Elsewhere:
    """inside: what a command begins with to run in there; environment: what it needs to find the cluster."""

    layout: Layout
    inside: tuple[str, ...]

    @property
    def environment(self) -> dict[str, str]:
        return {"GPUOPS_NIM_STATE": str(self.layout.state)}


@contextlib.contextmanager
def cluster(*options: str) -> Iterator[Elsewhere]:
    """It is made in half a minute, by `rehearsal up` with these options, and goes with all that it has."""
    name = f"gpuops-{os.getpid()}-{next(_numbers)}"
    layout = Layout(Layout.from_environment().cache, Path(tempfile.mkdtemp(prefix="gpuops-")))
    # `ip netns exec` would hide the cgroups
    here = Elsewhere(layout, ("nsenter", f"--net=/run/netns/{name}"))
    rehearsal = (*here.inside, sys.executable, "-m", "rehearsal")
    run_program("ip", "netns", "add", name)
    try:
        run_program("ip", "-n", name, "link", "set", "lo", "up")
        run_program(*rehearsal, "up", *options, env=here.environment)
        yield here
    finally:
        run_program(*rehearsal, "down", "--purge", env=here.environment)
        run_program("ip", "netns", "delete", name)
