# SPDX-License-Identifier: GPL-3.0-or-later
"""`python -m tests.bench` from the root of the checkout: measures, prints the table, writes it to build/."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from functools import partial
from pathlib import Path

from rehearsal.layout import Layout
from tests.peer import peer_collection

from . import report
from .contenders import ROOT, Contenders
from .scenarios import Benchmark, BenchmarkError, Samples

REPETITIONS = {1: 5, 20: 3, 100: 1}  # by the number of services


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--services", type=int, nargs="*", default=list(REPETITIONS), choices=list(REPETITIONS))
    parser.add_argument("--quick", action="store_true", help="each scenario once with one service: does it still work?")
    given = parser.parse_args()
    cache, output = ROOT / ".cache" / "bench", ROOT / "build" / ("benchmark-quick" if given.quick else "benchmark")
    for folder in (cache, output):
        folder.mkdir(parents=True, exist_ok=True)
    peer = peer_collection(cache)
    layout, samples = Layout.from_environment(), Samples()
    counts = {1: 1} if given.quick else {count: REPETITIONS[count] for count in given.services}
    load, patience = (0, 5) if given.quick else (3, 120)
    about = {
        "versions": report.versions(layout, peer),
        "machine": report.machine(),
        "settings": {
            "repetitions": ", ".join(f"{times} of {count}" for count, times in counts.items()),
            "the model loads, seconds": load,
            "the peers' wait, seconds": patience,
        },
    }
    before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        benchmark = Benchmark(Contenders(layout, Path(folder), peer), samples, _say, load, patience, not given.quick)
        steps = [] if given.quick else [benchmark.warm_up]
        steps += [benchmark.wrong_key, benchmark.false_answers]
        steps += [partial(benchmark.deploy, count, times) for count, times in counts.items()]
        for step in steps:
            try:
                step()
            except BenchmarkError as error:
                _say(str(error))
                return 1
            # after each step, so that a run that is cut short has told what it knew
            result = {"rows": report.rows(samples), **about, "load": [before, os.getloadavg()[0]]}
            (output / "result.json").write_text(json.dumps(result, indent=1) + "\n")
            (output / "result.md").write_text(report.table(result))
    print((output / "result.md").read_text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
