# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import datetime

import pytest

from ansible_collections.gpuops.nim.plugins.module_utils._host.branches import BRANCHES


@pytest.mark.parametrize(
    ("number", "day", "ended"),
    [
        (580, "2028-06-30", False),
        (580, "2028-07-01", True),
        (535, "2026-07-01", True),
        (595, "2026-11-22", False),
        (550, "2020-01-01", True),  # NVIDIA's list has no date for it any more
        (620, "2040-01-01", False),  # nor yet for this one
    ],
)
def test_a_branch_ends_on_its_day(number: int, day: str, ended: bool) -> None:
    assert BRANCHES[number].ended(datetime.date.fromisoformat(day)) is ended
