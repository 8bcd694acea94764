# SPDX-License-Identifier: GPL-3.0-or-later
"""ansible-core's own checks of a collection, with every Python that is here. tests/matrix has other releases'."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import pytest

from ansible_collections.gpuops.nim.tests import ansible_test, interpreters
from ansible_collections.gpuops.nim.tests.conftest import CACHE, LATER, ROOT, run_program


def sanity() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        copy = ansible_test.stage(ROOT, Path(scratch))
        home = ansible_test.prepare_home(CACHE / "ansible-test")
        path = os.pathsep.join([f"{sys.prefix}/bin", *_interpreters(Path(scratch, "bin"))])
        env = {"HOME": str(home), "PATH": path}
        run_program(*LATER, "ansible-test", "sanity", "--color", "no", cwd=copy, env=env, timeout=3600)


def _interpreters(folder: Path) -> list[str]:
    """Where the real ones are."""
    folder.mkdir()
    pyenv = interpreters.pyenv()
    for minor in interpreters.MINORS:
        if program := interpreters.on_machine(minor, pyenv):
            (folder / f"python3.{minor}").symlink_to(program)
    return [str(folder), interpreters.search_path(pyenv)]


@pytest.mark.beside(run=sanity)
def test_sanity(begun):
    begun.result()
