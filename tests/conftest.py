# SPDX-License-Identifier: GPL-3.0-or-later
"""What all tests share: the checkout, its programs, and the rehearsal cluster."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path

import pytest

from rehearsal.layout import Layout

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.prefix) / "bin"
CACHE = Layout.from_environment().cache / "tests"  # environments and systems, as good for another checkout
LATER = ("nice", "-n", "19")  # whoever waits for an answer gets the processor before this

Run = Callable[..., subprocess.CompletedProcess[str]]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--another-python", default=sys.executable, help="what modules are run with beside Ansible's own")


def pytest_report_header() -> str:
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("ansible-core", "kubernetes"))
    return f"in {sys.prefix}: Python {platform.python_version()}, {versions}"


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("rehearsal") and not Layout.from_environment().kubeconfig.exists():
        pytest.fail("The rehearsal cluster is not up: make up", pytrace=False)


# -- tests that begin with the session, beside those that mostly wait

_POOL = pytest.StashKey[ThreadPoolExecutor]()
_BEGUN = pytest.StashKey[dict[str, "Future[None]"]]()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Wait for those only when all others have run."""
    items.sort(key=lambda item: item.get_closest_marker("beside") is not None)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Begin what tests are marked with, `@pytest.mark.beside(run=function, first=False)`, with their parameters."""
    if session.config.option.collectonly:
        return
    pool = session.config.stash[_POOL] = ThreadPoolExecutor(1)
    begun = session.config.stash[_BEGUN] = {}
    marked = [
        (item, marker)
        for item in session.items
        if isinstance(item, pytest.Function) and (marker := item.get_closest_marker("beside"))
    ]
    for item, marker in sorted(marked, key=lambda each: not each[1].kwargs.get("first")):
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        begun[item.nodeid] = pool.submit(marker.kwargs["run"], **parameters)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if pool := session.config.stash.get(_POOL, None):
        pool.shutdown(cancel_futures=True)


@pytest.fixture
def begun(request: pytest.FixtureRequest) -> Future[None]:
    """What this test is marked with."""
    return request.config.stash[_BEGUN][request.node.nodeid]


@pytest.fixture(scope="session")
def hosts_are_free(request: pytest.FixtureRequest) -> None:
    """Waits until molecule has ended, which makes hosts and serves packages at the address of all."""
    wait(future for name, future in request.config.stash[_BEGUN].items() if "test_molecule" in name)


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def folders() -> dict[str, str]:
    """Environment that tells a user with another home where the rehearsal cluster is."""
    layout = Layout.from_environment()
    return {"GPUOPS_NIM_STATE": str(layout.state), "GPUOPS_NIM_CACHE": str(layout.cache)}


@pytest.fixture(scope="session")
def run() -> Run:
    return run_program


def run_program(
    *command: str | Path,
    env: Mapping[str, str] | None = None,
    cwd: Path = ROOT,
    rc: int | None = 0,
    timeout: float = 900,
) -> subprocess.CompletedProcess[str]:
    """Run a program of the tests' environment, as a user would: no terminal, no key, no bytecode switched off.

    `run("ansible-playbook", "site.yml", env={...}, cwd=..., rc=0)`; another exit status fails the test and shows all of
    the output. `rc=None` takes what comes.
    """
    ours = {name: value for name, value in os.environ.items() if name not in _NOT_OURS}
    ours |= {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "ANSIBLE_NOCOLOR": "1", **(env or {})}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=ours,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    if rc is not None and done.returncode != rc:
        line = " ".join(map(str, command))
        why = "".join(_TASK_FAILED.findall(done.stdout)[:1])  # pytest's closing lines show the first line of this only
        output = f"{done.stdout}\n{done.stderr}"
        pytest.fail(f"{line} ended with {done.returncode}, not {rc}. {why}\n{output}", pytrace=False)
    return done


_TASK_FAILED = re.compile(r"^(?:fatal|failed): .{,600}", re.MULTILINE)
_NOT_OURS = {"NGC_API_KEY", "HF_TOKEN", "PYTHONDONTWRITEBYTECODE", "PYTHONPATH", "VIRTUAL_ENV"} | {
    name for name in os.environ if name.startswith(("ANSIBLE_", "K8S_AUTH_", "MOLECULE_"))
}
