# SPDX-License-Identifier: GPL-3.0-or-later
"""Every fault of the catalogue, brought about for real, is called by its name; docs/diagnosis.md has the score."""

from __future__ import annotations

import os
import time

import pytest

from ansible_collections.gpuops.nim.plugins.module_utils._kube.auth import connect
from ansible_collections.gpuops.nim.tests.catalogue.expected import UNSURE
from ansible_collections.gpuops.nim.tests.catalogue.faults import FAULTS, SCENES, WAVES
from ansible_collections.gpuops.nim.tests.catalogue.stage import Stage
from ansible_collections.gpuops.nim.tests.catalogue.trial import Theatre
from rehearsal.layout import Layout

pytestmark = [pytest.mark.rehearsal, pytest.mark.apart]

LAYOUT = Layout.from_environment()
WANTED, AT_ONCE = 0.95, 0.9  # of all faults: named right in the end, and before any other cause


@pytest.fixture(scope="module")
def played(play):
    """What was said of each fault, and what nim_service_info said beside it: `{name: trial}, {name: [ids]}`."""
    stage = Stage(LAYOUT, f"catalogue-{os.getpid()}")
    theatre = Theatre(stage, connect({"kubeconfig": str(LAYOUT.kubeconfig)}))
    asked: dict[str, list[str]] = {}

    def ask(trials):
        open_ = trials
        for pause in (0, 1):  # while a container starts again there may be nothing to say
            time.sleep(pause)
            namespaces = sorted({stage.namespaces[trial.fault.place] for trial in open_.values()})
            for service in play({"gpuops.nim.nim_service_info": {"namespaces": namespaces}}).result["services"]:
                if service["name"] in open_:
                    asked[service["name"]] = [f"{each['id']}/{each['variant']}" for each in service["findings"]]
            open_ = {name: trial for name, trial in trials.items() if trial.named is not None and not asked.get(name)}
            if not open_:
                return

    try:
        stage.build()
        trials = theatre.together(WAVES, ask)
        for scene in SCENES:
            trials |= theatre.scene(scene, ask)
    finally:
        stage.close()
    return trials, asked


def test_faults_are_called_by_their_names(played):
    trials, _ = played
    assert set(trials) == {fault.name for fault in FAULTS}
    missed = {name: trial.said for name, trial in trials.items() if trial.named is None}
    late = {name: trial.said for name, trial in trials.items() if trial.wrong}
    print(f"{len(trials) - len(missed)} of {len(trials)} faults were named right; late: {late}; never: {missed}")
    assert len(missed) <= (1 - WANTED) * len(trials), missed
    assert len(missed | late) <= (1 - AT_ONCE) * len(trials), missed | late


def test_the_module_says_the_same(played):
    trials, asked = played
    # what is slow passes, and may have passed by then
    named = {name: trial for name, trial in trials.items() if trial.named is not None and not trial.fault.slow}
    first = {name: asked[name][0] for name in named if asked[name]}
    others = {name: said for name, said in first.items() if said not in (*named[name].expected, *UNSURE)}
    assert len(others) <= (1 - WANTED) * len(named), others
    assert sum(said in named[name].expected for name, said in first.items()) >= AT_ONCE * len(named), first
