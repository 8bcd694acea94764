# SPDX-License-Identifier: GPL-3.0-or-later
"""The benchmark still works. What it measures is in docs/benchmark.md; no speed is asserted here."""

from __future__ import annotations

import json
import sys

import pytest

pytestmark = [pytest.mark.rehearsal, pytest.mark.slow]


def test_each_scenario_once(run, root):
    run(sys.executable, "-m", "tests.bench", "--quick", env={"PYTHONPATH": "collections"})
    rows = json.loads((root / "build" / "benchmark-quick" / "result.json").read_text())["rows"]
    assert all(len(cells) == 3 for cells in rows.values())
    ours = {row: cells["gpuops.nim"]["median"] for row, cells in rows.items()}
    assert ours["1 service, unchanged: writes"] == 0
    assert ours["1 service, first deploy: writes"] == 4  # namespace, two Secrets, InferenceService
    assert ours["wrong key: named in the error"]
    assert ours["CPU limit left out: the re-run says"] == "ok"
    assert ours["tag that can't be pulled, old pod alive: exit status"] != 0
    requests = [cells for row, cells in rows.items() if row.endswith("API requests")]
    assert all(cell["median"] > 0 for cells in requests for cell in cells.values())
