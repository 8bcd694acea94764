# SPDX-License-Identifier: GPL-3.0-or-later
"""The releases that the tests run on beside the one of requirements-test.txt, and how."""

from __future__ import annotations

import os
import re
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.gpuops.nim.tests import ansible_test, elsewhere, interpreters
from ansible_collections.gpuops.nim.tests.conftest import CACHE, LATER, ROOT, run_program
from ansible_collections.gpuops.nim.tests.elsewhere import Elsewhere
from ansible_collections.gpuops.nim.tests.matrix import environments
from ansible_collections.gpuops.nim.tests.matrix.environments import Environment

OLDEST_KUBERNETES = "31"
_PATIENCE = 3600.0  # seconds
_lock = threading.Lock()


@dataclass(frozen=True)
class Leg:
    """One environment, and what runs in it.

    core, kubernetes: the release line; an empty ``kubernetes`` is the newest. coming: pre-releases, too.
    pythons: the minor versions that may run it; the first that is found does. in_debian: Debian's, whatever is here.
    target: minor version of the Python that modules are also run with; None for the leg's own.
    tests: pytest's marker expression for what runs on the cluster. sanity: more options of ansible-test sanity.
    """

    core: str
    pythons: tuple[int, ...]
    kubernetes: str = ""
    coming: bool = False
    in_debian: bool = False
    target: int | None = None
    tests: str = "matrix"
    sanity: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"core-{self.core}-kubernetes-{self.kubernetes or 'newest'}"

    @property
    def requirements(self) -> list[str]:
        kubernetes = f"kubernetes=={self.kubernetes}.*" if self.kubernetes else "kubernetes"
        return [f"ansible-core~={self.core}.0{'a0' if self.coming else ''}", kubernetes]


LEGS = [
    Leg("2.17", (10, 11, 12), kubernetes=OLDEST_KUBERNETES, target=9, tests="matrix or leak"),
    Leg("2.21", (12, 13, 14)),
    # its pylint comes from an archive on GitHub, which not every machine reaches
    Leg("2.22", (13,), coming=True, in_debian=True, target=9, sanity=("--skip-test", "pylint")),
]


def environment(leg: Leg) -> Environment:
    """Find or make a leg's environment."""
    names = ("requirements.txt", "requirements-rehearsal.txt", "requirements-test.txt")
    lines = {name: (ROOT / name).read_text().splitlines() for name in names}
    pytest_line = [line for line in lines.pop("requirements-test.txt") if line.startswith("pytest~")]
    common = [line for listed in lines.values() for line in listed if not line.startswith("#")] + pytest_line
    with _lock:
        if leg.in_debian:
            interpreter = interpreters.in_debian(leg.pythons[0], CACHE)
        else:
            interpreter = interpreters.find(leg.pythons, CACHE, interpreters.pyenv())
        return environments.build(CACHE, str(leg), interpreter, common + leg.requirements)


def target(minor: int) -> Environment:
    """Find or make what a machine has that Ansible runs modules on: no Ansible, and the oldest `kubernetes`."""
    interpreter = interpreters.find([minor], CACHE, interpreters.pyenv())
    return environments.build(
        CACHE, f"target-3.{minor}", interpreter, [f"kubernetes=={OLDEST_KUBERNETES}.*", "requests"]
    )


def units(leg: Leg) -> None:
    run_pytest(leg, "tests/unit")


def sanity(leg: Leg) -> None:
    """ansible-test of the leg's release, with its own Python alone: tests/sanity has all that are here."""
    here = environment(leg)
    with tempfile.TemporaryDirectory() as scratch:
        copy = ansible_test.stage(ROOT, Path(scratch))
        path = os.pathsep.join([str(here.bin), interpreters.search_path(interpreters.pyenv())])
        env = {"HOME": str(ansible_test.prepare_home(here.folder / "home")), "PATH": path}
        only = f"--python=3.{here.interpreter.minor}"
        command = here.command("ansible-test", "sanity", "--color", "no", only, *leg.sanity)
        run_program(*LATER, *command, cwd=copy, env=env, timeout=_PATIENCE)


def on_a_cluster(leg: Leg) -> None:
    """What is marked for the leg, on a cluster that no other test uses meanwhile."""
    another = [f"--another-python={target(leg.target).wrapper()}"] if leg.target else []
    folders = ["tests/integration", "tests/e2e", "--ignore=tests/e2e/test_report.py"]  # that wants a browser's driver
    environment(leg)  # nothing can be fetched in there
    with elsewhere.cluster() as there:
        run_pytest(leg, *folders, "-m", leg.tests, *another, there=there)


def run_pytest(leg: Leg, *arguments: str, there: Elsewhere | None = None) -> None:
    """Other tests in a leg's environment. Fails unless there are some, none is skipped, and it is what it says."""
    here = environment(leg)
    command = here.command("python", "-m", "pytest", "-p", "no:cacheprovider", *arguments)
    before, env = (there.inside, there.environment) if there else (LATER, {})
    done = run_program(*before, *command, env=env, timeout=_PATIENCE)
    told = re.search(r"^in (\S+): Python 3\.(\d+)\S*, ansible-core (\S+), kubernetes (\d+)", done.stdout, re.M)
    assert told, done.stdout
    assert told[1] == str(here.bin.parent)
    assert int(told[2]) in leg.pythons
    assert told[3].startswith(f"{leg.core}.")
    assert (told[4] == OLDEST_KUBERNETES) == bool(leg.kubernetes)
    summary = done.stdout.splitlines()[-1]
    assert re.fullmatch(r"=+ \d+ passed(, \d+ (deselected|warnings?))* in .* =+", summary), done.stdout
