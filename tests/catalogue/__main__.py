# SPDX-License-Identifier: GPL-3.0-or-later
"""`python -m tests.catalogue` from the root of the checkout: brings all faults about and writes docs/diagnosis.md."""

from __future__ import annotations

import os
import sys

from ansible_collections.gpuops.nim.plugins.module_utils._kube.auth import connect
from rehearsal import cluster
from rehearsal.layout import Layout

from .faults import SCENES, WAVES
from .observe import objects
from .recorded import RECORDED
from .report import PAGE, page
from .stage import Stage
from .trial import Theatre, Trial, spelt


def main() -> int:
    layout = Layout.from_environment()
    stage = Stage(layout, f"catalogue-{os.getpid()}")
    theatre = Theatre(stage, connect({"kubeconfig": str(layout.kubeconfig)}))
    try:
        stage.build()
        trials = theatre.together(WAVES, _tell)
        for scene in SCENES:
            trials |= theatre.scene(scene, _tell)
    finally:
        stage.close()
    recorded = {one.name: next((spelt(finding) for finding in objects(one).findings()), "") for one in RECORDED}
    versions = f"KServe {cluster.kserve_release(layout)}."
    PAGE.write_text(page(trials, recorded, theatre.looks, versions))
    print(PAGE)
    return 0


def _tell(trials: dict[str, Trial]) -> None:
    for name, trial in trials.items():
        print(name, trial.said, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
