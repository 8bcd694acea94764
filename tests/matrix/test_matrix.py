# SPDX-License-Identifier: GPL-3.0-or-later
"""The oldest, a middle and the coming ansible-core, with the oldest and the newest `kubernetes`, each in an environment
of its own. The rest of the tests run on one more release: requirements-test.txt has it.

All but the oldest one's on a cluster are slow tests: newer releases rarely break what runs on both of these two.
"""

from __future__ import annotations

import pytest
import yaml

from ansible_collections.gpuops.nim.tests.matrix.legs import LEGS, OLDEST_KUBERNETES, on_a_cluster, sanity, units

ALL = pytest.mark.parametrize("leg", LEGS, ids=str)


@pytest.mark.beside(run=on_a_cluster)
@pytest.mark.parametrize("leg", [LEGS[0], *(pytest.param(leg, marks=pytest.mark.slow) for leg in LEGS[1:])], ids=str)
def test_on_a_cluster(leg, begun):
    begun.result()


@pytest.mark.slow
@pytest.mark.beside(run=units)
@ALL
def test_units(leg, begun):
    begun.result()


@pytest.mark.slow
@pytest.mark.beside(run=sanity)
@ALL
def test_sanity(leg, begun):
    begun.result()


def test_what_is_promised_is_tested(root):
    runtime = yaml.safe_load((root / "meta" / "runtime.yml").read_text())
    assert runtime["requires_ansible"] == f">={LEGS[0].core}.0"
    needed = (root / "requirements.txt").read_text().splitlines()
    assert {f"ansible-core>={LEGS[0].core}", f"kubernetes>={OLDEST_KUBERNETES}"} <= set(needed)
