# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""Driver branches, until when NVIDIA supports them, and which GPUs each can drive."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import Optional

# oldest first; a generation that isn't here is newer than all of them
GENERATIONS = ("maxwell", "pascal", "volta", "turing", "ampere", "ada", "hopper", "blackwell")
LAST_FOR_PRE_TURING = 580
LAST_PROPRIETARY = 615
OPEN_BY_DEFAULT = 560  # NVIDIA's own installers choose open from here on
FIRST_FOR_BLACKWELL = 570
# the oldest branch that runs programs of this major release of CUDA (minor-version compatibility)
CUDA_NEEDS = {11: 450, 12: 525, 13: 580}


@dataclass(frozen=True)
class Branch:
    """``ends``: the last day of support; None where NVIDIA has not said. ``listed``: NVIDIA's list still has it."""

    number: int
    kind: str
    ends: Optional[datetime.date] = None
    listed: bool = True

    def ended(self, today: datetime.date) -> bool:
        return not self.listed or (self.ends is not None and self.ends < today)

    @property
    def lifetime(self) -> str:
        if not self.listed:
            return "no longer on NVIDIA's list of supported branches"
        return f"supported until {self.ends:%Y-%m-%d}" if self.ends else "end of support not announced"


# docs.nvidia.com, "Supported drivers and CUDA toolkit versions" and the driver installation guides, seen 2026-11
BRANCHES = {
    branch.number: branch
    for branch in (
        Branch(535, "long-term support", datetime.date(2026, 6, 30)),
        Branch(550, "production", listed=False),
        Branch(570, "production", listed=False),
        Branch(580, "long-term support", datetime.date(2028, 6, 30)),
        Branch(595, "production", datetime.date(2027, 3, 31)),
        Branch(610, "new feature", datetime.date(2026, 8, 31)),
        Branch(615, "new feature"),
        Branch(620, "new feature"),
    )
}


def age(generation: str) -> int:
    """Its place among the generations; the larger, the newer."""
    return GENERATIONS.index(generation) if generation in GENERATIONS else len(GENERATIONS)


def open_only(generation: str) -> bool:
    return age(generation) >= age("blackwell")


def proprietary_only(generation: str) -> bool:
    return age(generation) < age("turing")
