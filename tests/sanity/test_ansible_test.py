# SPDX-License-Identifier: GPL-3.0-or-later
"""ansible-core's own checks of a collection, with every Python that is here. tests/matrix has other releases'."""

from __future__ import annotations

import os
import sys

import pytest

from ansible_collections.gpuops.nim.tests import ansible_test, interpreters


@pytest.fixture
def search_path(tmp_path) -> str:
    """PATH with real interpreters."""
    pyenv = interpreters.pyenv()
    for minor in interpreters.MINORS:
        if program := interpreters.on_machine(minor, pyenv):
            (tmp_path / f"python3.{minor}").symlink_to(program)
    return os.pathsep.join([f"{sys.prefix}/bin", str(tmp_path), interpreters.search_path(pyenv)])


def test_sanity(run, root, tmp_path_factory, search_path):
    copy = ansible_test.stage(root, tmp_path_factory.mktemp("staged"))
    home = ansible_test.prepare_home(root / ".cache" / "ansible-test")
    run("ansible-test", "sanity", "--color", "no", cwd=copy, env={"HOME": str(home), "PATH": search_path})
