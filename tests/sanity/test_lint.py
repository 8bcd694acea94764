# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import pytest

LINTERS = {
    "ruff": ("ruff", "check", "."),
    "format": ("ruff", "format", "--check", "--diff", "."),
    "mypy": ("mypy",),
    "yamllint": ("yamllint", "--strict", "."),
    "ansible-lint": ("ansible-lint", "--nocolor"),
}


@pytest.mark.parametrize("linter", LINTERS)
def test_lint(run, linter):
    run(*LINTERS[linter])
