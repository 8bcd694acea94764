# SPDX-License-Identifier: GPL-3.0-or-later
"""What all tests share: the checkout, its programs, and the rehearsal cluster."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from rehearsal.layout import Layout

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.prefix) / "bin"

Run = Callable[..., subprocess.CompletedProcess[str]]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--another-python", default=sys.executable, help="what modules are run with beside Ansible's own")


def pytest_report_header() -> str:
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("ansible-core", "kubernetes"))
    return f"in {sys.prefix}: Python {platform.python_version()}, {versions}"


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("rehearsal") and not Layout.from_environment().kubeconfig.exists():
        pytest.fail("The rehearsal cluster is not up: make up", pytrace=False)


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def state() -> Path:
    """The state folder of the rehearsal cluster."""
    return Layout.from_environment().state


@pytest.fixture(scope="session")
def run() -> Run:
    """Runs a program of the tests' environment, as a user would: no terminal, no key, no bytecode switched off.

    `run("ansible-playbook", "site.yml", env={...}, cwd=..., rc=0)`; another exit status fails the test and shows all of
    the output. `rc=None` takes what comes.
    """

    def run(
        *command: str | Path,
        env: Mapping[str, str] | None = None,
        cwd: Path = ROOT,
        rc: int | None = 0,
        timeout: float = 900,
    ) -> subprocess.CompletedProcess[str]:
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
            pytest.fail(f"{line}\nended with {done.returncode}, not {rc}\n{done.stdout}\n{done.stderr}", pytrace=False)
        return done

    return run


_NOT_OURS = {"NGC_API_KEY", "HF_TOKEN", "PYTHONDONTWRITEBYTECODE", "PYTHONPATH", "VIRTUAL_ENV"} | {
    name for name in os.environ if name.startswith(("ANSIBLE_", "K8S_AUTH_", "MOLECULE_"))
}
