# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import pytest

from rehearsal.standins.ngc import KEYS

KEY = KEYS["valid"]


@pytest.mark.rehearsal
@pytest.mark.parametrize("scenario", ["nim_predictor"])
def test_scenario(run, root, scenario):
    run("molecule", "test", "--scenario-name", scenario, env={"NGC_API_KEY": KEY})
