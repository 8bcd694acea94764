# SPDX-License-Identifier: GPL-3.0-or-later
"""The words, and the page that explains them to people."""

from __future__ import annotations

import re

from ansible_collections.gpuops.nim.plugins.module_utils._ngc.verdict import GOOD, REFUSED, VERDICTS, Verdict
from ansible_collections.gpuops.nim.tests.unit.standins import ROOT


def test_the_page_explains_each_verdict_once_in_their_order() -> None:
    page = (ROOT / "docs" / "keys.md").read_text()
    table = page.partition("## Verdicts")[2].partition("\n## ")[0]
    assert tuple(re.findall(r"^\| `(\w+)` \|", table, re.M)) == VERDICTS


def test_good_refused_and_neither() -> None:
    assert set(GOOD) | set(REFUSED) < set(VERDICTS)
    assert not set(GOOD) & set(REFUSED)
    for word in VERDICTS:
        verdict = Verdict(word, "because")
        assert (verdict.good, verdict.refused) == (word in GOOD, word in REFUSED)
