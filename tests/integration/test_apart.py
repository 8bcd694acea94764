# SPDX-License-Identifier: GPL-3.0-or-later
"""What is marked `apart` mostly waits, and for long: it runs on a cluster of its own, beside the others."""

from __future__ import annotations

import sys

import pytest

from ansible_collections.gpuops.nim.tests import elsewhere
from tests.conftest import run_program


def on_another_cluster():
    tests = (sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-m", "apart", "tests/integration")
    with elsewhere.cluster() as there:
        run_program(*there.inside, *tests, env=there.environment, timeout=3600)


@pytest.mark.beside(run=on_another_cluster)
def test_on_another_cluster(begun):
    begun.result()
