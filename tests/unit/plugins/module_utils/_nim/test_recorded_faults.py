# SPDX-License-Identifier: GPL-3.0-or-later
"""What others have recorded of faults that the rehearsal can't have is called what somebody who knows would call it."""

from __future__ import annotations

import pytest

from ansible_collections.gpuops.nim.tests.catalogue.expected import EXPECTED, MISSES
from ansible_collections.gpuops.nim.tests.catalogue.faults import FAULTS, KNOWN
from ansible_collections.gpuops.nim.tests.catalogue.observe import objects
from ansible_collections.gpuops.nim.tests.catalogue.recorded import ELSEWHERE, RECORDED, Recorded
from ansible_collections.gpuops.nim.tests.catalogue.trial import spelt


@pytest.mark.parametrize("fault", [one for one in RECORDED if one.name not in MISSES], ids=lambda fault: fault.name)
def test_a_recorded_fault_has_its_name(fault: Recorded) -> None:
    findings = objects(fault).findings()
    assert findings, fault.cause
    assert spelt(findings[0]) in EXPECTED[fault.name], f"{fault.cause}: {findings[0]}"


def test_every_known_failure_is_in_the_catalogue() -> None:
    faults = [*FAULTS, *RECORDED]
    assert len({fault.name for fault in faults}) == len(faults)
    assert {row for fault in faults for row in fault.rows} | set(ELSEWHERE) == set(KNOWN)
    assert set(EXPECTED) | set(MISSES) == {fault.name for fault in faults}
    assert not set(EXPECTED) & set(MISSES)
