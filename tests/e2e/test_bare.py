# SPDX-License-Identifier: GPL-3.0-or-later
"""What is marked `bare` runs in a session of its own, beside the others: nothing there touches their cluster."""

from __future__ import annotations

import sys

import pytest

from tests.conftest import run_program


def on_a_bare_cluster():
    tests = (sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-m", "bare and not slow", "tests/e2e")
    run_program(*tests, timeout=3600)


@pytest.mark.beside(run=on_a_bare_cluster)
def test_on_a_bare_cluster(begun):
    begun.result()
