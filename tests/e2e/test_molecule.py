# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import pytest

from rehearsal.standins.ngc import KEYS
from tests.conftest import LATER, run_program

KEY = KEYS["valid"]


@pytest.mark.rehearsal
@pytest.mark.parametrize("scenario", ["nim_predictor"])
def test_scenario(run, root, scenario):
    run("molecule", "test", "--scenario-name", scenario, env={"NGC_API_KEY": KEY})


def hosts(role):
    run_program(*LATER, "molecule", "test", "--scenario-name", role, timeout=3600)


SLOW = pytest.param("nvidia_driver_dkms", marks=pytest.mark.slow)


@pytest.mark.beside(run=hosts, first=True)  # other tests wait for these: `hosts_are_free`
@pytest.mark.parametrize("role", ["container_toolkit", "nvidia_driver", "nvidia_driver_dnf", SLOW])
def test_role_of_hosts(role, begun):
    """On hosts that it makes and removes itself; no cluster."""
    begun.result()
