# SPDX-License-Identifier: GPL-3.0-or-later
"""The oldest, a middle and the coming ansible-core, with the oldest and the newest `kubernetes`, each in an environment
of its own. The rest of the tests run on one more release: requirements-test.txt has it."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import pytest
import yaml

from ansible_collections.gpuops.nim.tests import ansible_test, interpreters
from ansible_collections.gpuops.nim.tests.matrix import environments
from ansible_collections.gpuops.nim.tests.matrix.environments import Environment

OLDEST_KUBERNETES = "31"


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
    only_on_cluster: bool = False

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
    Leg("2.22", (13,), coming=True, in_debian=True, target=9, tests="matrix or leak", sanity=("--skip-test", "pylint")),
    # units and sanity would say the same again
    Leg("2.22", (13, 14), coming=True, kubernetes=OLDEST_KUBERNETES, only_on_cluster=True),
]
OF_ALL = pytest.mark.parametrize("leg", LEGS, ids=str)
OF_WHOLE = pytest.mark.parametrize("leg", [leg for leg in LEGS if not leg.only_on_cluster], ids=str)


@pytest.fixture(scope="session")
def cache(root):
    return root / ".cache" / "matrix"


@pytest.fixture(scope="session")
def environment(root, cache) -> Callable[[Leg], Environment]:
    """Finds or makes a leg's environment."""
    names = ("requirements.txt", "requirements-rehearsal.txt", "requirements-test.txt")
    lines = {name: (root / name).read_text().splitlines() for name in names}
    pytest_line = [line for line in lines.pop("requirements-test.txt") if line.startswith("pytest~")]
    common = [line for listed in lines.values() for line in listed if not line.startswith("#")] + pytest_line
    lock = threading.Lock()

    def environment(leg: Leg) -> Environment:
        with lock:
            if leg.in_debian:
                interpreter = interpreters.in_debian(leg.pythons[0], cache)
            else:
                interpreter = interpreters.find(leg.pythons, cache, interpreters.pyenv())
            return environments.build(cache, str(leg), interpreter, common + leg.requirements)

    return environment


@pytest.fixture(scope="session")
def target(cache) -> Callable[[int], Environment]:
    """Finds or makes what a machine has that Ansible runs modules on: no Ansible, and the oldest `kubernetes`."""

    def target(minor: int) -> Environment:
        interpreter = interpreters.find([minor], cache, interpreters.pyenv())
        requirements = [f"kubernetes=={OLDEST_KUBERNETES}.*", "requests"]
        return environments.build(cache, f"target-3.{minor}", interpreter, requirements)

    return target


@pytest.fixture(scope="session")
def pytest_in(run, environment) -> Callable[..., None]:
    """Runs other tests in a leg's environment. Fails unless there are some, none is skipped, and it is what it says."""

    def pytest_in(leg: Leg, *arguments: str) -> None:
        here = environment(leg)
        done = run(*here.command("python", "-m", "pytest", "-p", "no:cacheprovider", *arguments))
        told = re.search(r"^in (\S+): Python 3\.(\d+)\S*, ansible-core (\S+), kubernetes (\d+)", done.stdout, re.M)
        assert told, done.stdout
        assert told[1] == str(here.bin.parent)
        assert int(told[2]) in leg.pythons
        assert told[3].startswith(f"{leg.core}.")
        assert (told[4] == OLDEST_KUBERNETES) == bool(leg.kubernetes)
        summary = done.stdout.splitlines()[-1]
        assert re.fullmatch(r"=+ \d+ passed(, \d+ (deselected|warnings?))* in .* =+", summary), done.stdout

    return pytest_in


@pytest.fixture(scope="session")
def sanity_in(run, root, environment, tmp_path_factory) -> Callable[[Leg], None]:
    """Runs ansible-test of a leg's release, with its own Python alone: tests/sanity has all that are here."""

    def sanity_in(leg: Leg) -> None:
        here = environment(leg)
        copy = ansible_test.stage(root, tmp_path_factory.mktemp("staged"))
        path = os.pathsep.join([str(here.bin), interpreters.search_path(interpreters.pyenv())])
        env = {"HOME": str(ansible_test.prepare_home(here.folder / "home")), "PATH": path}
        only = f"--python=3.{here.interpreter.minor}"
        run(*here.command("ansible-test", "sanity", "--color", "no", only, *leg.sanity), cwd=copy, env=env)

    return sanity_in


@pytest.fixture(scope="session", autouse=True)
def beside(request, pytest_in, sanity_in) -> Iterator[dict[str, Future[None]]]:
    """What needs the processor more than the cluster runs beside the tests on the cluster, which mostly wait."""
    runs = {"test_units": lambda leg: pytest_in(leg, "tests/unit"), "test_sanity": sanity_in}
    with ThreadPoolExecutor(1) as pool:
        yield {
            item.nodeid: pool.submit(runs[item.originalname], item.callspec.params["leg"])
            for item in request.session.items
            if item.module.__name__ == __name__ and item.originalname in runs
        }
        pool.shutdown(cancel_futures=True)


@pytest.mark.rehearsal
@OF_ALL
def test_on_the_cluster(pytest_in, target, leg):
    another = [f"--another-python={target(leg.target).wrapper()}"] if leg.target else []
    pytest_in(leg, "tests/integration", "tests/e2e", "-m", leg.tests, *another)


@OF_WHOLE
def test_units(beside, request, leg):
    beside[request.node.nodeid].result()


@OF_WHOLE
def test_sanity(beside, request, leg):
    beside[request.node.nodeid].result()


def test_what_is_promised_is_tested(root):
    runtime = yaml.safe_load((root / "meta" / "runtime.yml").read_text())
    assert runtime["requires_ansible"] == f">={LEGS[0].core}.0"
    needed = (root / "requirements.txt").read_text().splitlines()
    assert {f"ansible-core>={LEGS[0].core}", f"kubernetes>={OLDEST_KUBERNETES}"} <= set(needed)
