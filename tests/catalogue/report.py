# SPDX-License-Identifier: GPL-3.0-or-later
"""docs/diagnosis.md: the score, what was missed and why, and every fault with the seconds until it had its name."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from .expected import EXPECTED, MISSES
from .faults import FAULTS, KNOWN
from .recorded import ELSEWHERE, RECORDED
from .trial import Trial

PAGE = Path(__file__).resolve().parents[2] / "docs" / "diagnosis.md"


def page(trials: Mapping[str, Trial], recorded: Mapping[str, str], looks: Sequence[float], versions: str) -> str:
    """The page.

    trials: of all FAULTS; recorded: what is said first of each of RECORDED; looks: seconds that each look took.
    """
    named = [trial for trial in trials.values() if trial.named is not None]
    right = [fault.name for fault in RECORDED if recorded[fault.name] in EXPECTED.get(fault.name, ())]
    wrong = sum(bool(trial.wrong) for trial in trials.values())
    times = sorted(trial.named for trial in named if trial.named is not None)
    lines = [
        "# How well faults are named",
        "",
        "Made by `python -m tests.catalogue` on the rehearsal cluster; tests/integration/test_fault_catalogue.py holds",
        "it to this. What was to go wrong, and what somebody who knows would call it (tests/catalogue), was written",
        "from the failures that NIM on Kubernetes is known for, before the rules that name it and without them. The",
        "rules then had this list to learn from, so what they do not know yet is not in it: the first run, before",
        "they had, named 81 of 98 right.",
        "",
        "| | |",
        "|---|---|",
        f"| brought about for real | {len(trials)} |",
        f"| named right, as the first finding | {len(named)} ({len(named) / len(trials):.0%}) |",
        f"| another cause stood first meanwhile, or to the end | {wrong} |",
        f"| known from records alone | {len(RECORDED)} |",
        f"| named right from these | {len(right)} ({len(right) / len(RECORDED):.0%}) |",
        f"| seconds from fault to name: median, 9 of 10, worst | {_spread(times)} |",
        f"| seconds that one look at all of them takes: median, worst | {_look(looks)} |",
        "| findings on healthy services in all states (tests/integration/test_healthy.py) | 0 |",
        "",
        "A fault counts from the moment in which it was asked for: the seconds hold the start of the containers, some",
        f"thirty at once on two cores, and the patience of the rules that wait before they blame anybody. {versions}",
        "",
        "## Missed",
        "",
        *_missed(trials, recorded),
        "",
        "## Brought about for real",
        "",
        "The numbers are those of the known failures below.",
        "",
        "| fault | known as | its cause | named as | after, s |",
        "|---|---|---|---|---|",
        *(_row(trials[fault.name]) for fault in FAULTS),
        "",
        "## From records",
        "",
        "Hardware that isn't there, and other programs' words: objects and logs as others have recorded them.",
        "",
        "| fault | known as | its cause | named as |",
        "|---|---|---|---|",
        *(f"| {one.name} | {_numbers(one.rows)} | {one.cause} | `{recorded[one.name]}` |" for one in RECORDED),
        "",
        "## The known failures",
        "",
        "| | | faults |",
        "|---|---|---|",
        *(f"| {number} | {text} | {_of(number)} |" for number, text in KNOWN.items()),
    ]
    return "\n".join(lines) + "\n"


def _spread(times: Sequence[float]) -> str:
    return f"{statistics.median(times):.0f}, {times[int(len(times) * 0.9)]:.0f}, {times[-1]:.0f}"


def _look(looks: Sequence[float]) -> str:
    return f"{statistics.median(looks):.1f}, {max(looks):.1f}"


def _numbers(rows: Sequence[int]) -> str:
    return ", ".join(map(str, rows))


def _row(trial: Trial) -> str:
    said = trial.said[-1][1] if trial.said else ""
    name = next((one for _at, one in trial.said if one in trial.expected), said) if trial.named else said
    after = "" if trial.named is None else f"{trial.named:.0f}"
    return (
        f"| {trial.fault.name} | {_numbers(trial.fault.rows)} | {trial.fault.cause} | `{name or 'nothing'}` | {after} |"
    )


def _missed(trials: Mapping[str, Trial], recorded: Mapping[str, str]) -> list[str]:
    lines = []
    for name, trial in trials.items():
        others = ", ".join(f"`{one}`" for one in dict.fromkeys(trial.wrong))
        if trial.named is None:
            why = MISSES.get(name, "a rule is there and did not fit")
            lines.append(f"- {name} ({trial.fault.cause}): {f'was called {others}' if others else 'nothing'}; {why}")
        elif others:
            lines.append(f"- {name} ({trial.fault.cause}): was first called {others}")
    for fault in RECORDED:
        if recorded[fault.name] not in EXPECTED.get(fault.name, ()):
            said = f"was called `{recorded[fault.name]}`" if recorded[fault.name] else "nothing"
            why = MISSES.get(fault.name, "a rule is there and did not fit")
            lines.append(f"- {fault.name}, recorded ({fault.cause}): {said}; {why}")
    return lines or ["Nothing."]


def _of(number: int) -> str:
    if number in ELSEWHERE:
        return ELSEWHERE[number]
    return ", ".join(fault.name for fault in (*FAULTS, *RECORDED) if number in fault.rows)
