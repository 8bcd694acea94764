# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import os
import subprocess

import pytest

from ansible_collections.gpuops.nim.tests import interpreters
from ansible_collections.gpuops.nim.tests.conftest import CACHE
from ansible_collections.gpuops.nim.tests.interpreters import Interpreter, NoInterpreter

MINOR = 99  # no machine has it


def program(path, status):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\nexit {status}\n")
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def pyenv(tmp_path, monkeypatch):
    """One with shims, which fail, first on PATH."""
    shim = program(tmp_path / "shims" / f"python3.{MINOR}", 1)
    monkeypatch.setenv("PATH", os.path.dirname(shim), prepend=os.pathsep)
    return tmp_path


def test_one_of_pyenv_is_found_behind_its_shim(pyenv, tmp_path):
    real = program(pyenv / "versions" / f"3.{MINOR}.1" / "bin" / f"python3.{MINOR}", 0)
    assert interpreters.find([MINOR + 1, MINOR], tmp_path / "cache", pyenv) == Interpreter(real)


def test_one_on_the_path_is_found(pyenv, tmp_path, monkeypatch):
    real = program(tmp_path / "bin" / f"python3.{MINOR}", 0)
    monkeypatch.setenv("PATH", os.path.dirname(real), prepend=os.pathsep)
    assert interpreters.find([MINOR], tmp_path / "cache", pyenv) == Interpreter(real)


def test_one_that_can_make_no_venv_is_none(pyenv, tmp_path):
    program(pyenv / "versions" / f"3.{MINOR}.1" / "bin" / f"python3.{MINOR}", 1)
    with pytest.raises(NoInterpreter, match=f"3.{MINOR}"):
        interpreters.find([MINOR], tmp_path / "cache", pyenv)


def test_what_the_machine_lacks_is_debians(root, tmp_path, monkeypatch):
    cache, minor = CACHE, max(interpreters.SUITES)
    debians = interpreters.in_debian(minor, cache)
    path = os.environ["PATH"]
    monkeypatch.setenv("PATH", str(tmp_path))
    found = interpreters.find([MINOR, minor], cache, tmp_path)
    assert found == debians
    monkeypatch.setenv("PATH", path)
    said = subprocess.run(
        found.command("sh", "-c", f"{found.program} --version; ls {root}/galaxy.yml"),
        capture_output=True,
        text=True,
        check=True,
    )
    version, file = said.stdout.splitlines()
    assert version.startswith(f"Python 3.{minor}.")
    assert file == str(root / "galaxy.yml")
