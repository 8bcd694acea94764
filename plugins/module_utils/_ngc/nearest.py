# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""Names of images that exist, for someone who wrote one that doesn't."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Callable, Optional

SHOWN = 5
_TRIED = 3  # repositories whose tags are listed
_ALIKE = 0.7  # of 1, how much of a name has to be the same

# NVIDIA's own examples; they stand in for the catalog where that can't be asked
KNOWN = (
    "nim/meta/llama3-8b-instruct",
    "nim/meta/llama3-70b-instruct",
    "nim/meta/llama-3.1-8b-instruct",
    "nim/meta/llama-3.1-70b-instruct",
    "nim/mistralai/mistral-7b-instruct-v03",
    "nim/mistralai/mixtral-8x7b-instruct-v01",
    "nim/mistralai/mixtral-8x22b-instruct-v01",
    "nim/nvidia/nv-embedqa-e5-v5",
    "nim/nvidia/nv-rerankqa-mistral-4b-v3",
    "nim/nvidia/llama-3.3-nemotron-super-49b-v1",
)
# Llama 3 is llama3-8b, everything from 3.1 on is llama-3.1-8b
_LLAMA = re.compile(r"\bllama-?3(?:[.-]?(\d))?-(?=\d+b)")

Tags = Callable[[str], Optional[Sequence[str]]]
"""The tags of a repository: empty where there is no such repository, None where nobody said."""


@dataclass(frozen=True)
class Nearest:
    """``repository``: whether it exists, None where nobody said. ``images`` exist, the nearest first."""

    repository: Optional[bool]
    images: tuple[str, ...] = ()


def find(host: str, repository: str, reference: str, tags_of: Tags, names: Callable[[], Sequence[str]]) -> Nearest:
    """Images like the one that is missing.

    :param names: the repositories that there are, as far as anybody lists them; asked only where this one is missing.
    """
    tags = tags_of(repository)
    images = [f"{host}/{repository}:{tag}" for tag in near_tags(reference, tags or ())]
    if images:
        # the right tag under the other name: 1.1.0 is a release of llama-3.1 and not of llama3
        twins = [name for name in respelled(repository) if reference in (tags_of(name) or ())]
        found = [*images[: SHOWN - len(twins)], *(f"{host}/{name}:{reference}" for name in twins)]
        return Nearest(True, tuple(found))
    other = [*respelled(repository), *near_names(repository, names())]
    for name in list(dict.fromkeys(other))[:_TRIED]:
        images += [f"{host}/{name}:{tag}" for tag in near_tags(reference, tags_of(name) or ())[:2]]
    return Nearest(None if tags is None else False, tuple(images[:SHOWN]))


def near_tags(wanted: str, tags: Iterable[str]) -> list[str]:
    """The tags most like the wanted one: versions by their distance, then what is written much the same."""
    version = _version(wanted)

    def order(tag: str) -> tuple[object, ...]:
        mine = _version(tag)
        alike = -difflib.SequenceMatcher(None, wanted, tag).ratio()
        if not version or not mine:
            return (1, alike, tag)
        width = max(len(version), len(mine))
        one, other = ((*numbers, *(0,) * (width - len(numbers))) for numbers in (version, mine))
        return (0, tuple(abs(a - b) for a, b in zip(one, other)), alike, tag)

    return sorted(dict.fromkeys(tags), key=order)[:SHOWN]


def near_names(wanted: str, names: Iterable[str]) -> list[str]:
    """The repositories that are written much like the wanted one, the likest first; dots and dashes count for less."""

    def plain(name: str) -> str:
        return re.sub(r"[-._]", "", name)

    def alike(name: str) -> float:
        both = (difflib.SequenceMatcher(None, a, b).ratio() for a, b in ((wanted, name), (plain(wanted), plain(name))))
        return sum(both) / 2

    scored = {name: alike(name) for name in names if name != wanted}
    return [name for name in sorted(scored, key=lambda name: (-scored[name], name)) if scored[name] >= _ALIKE]


def respelled(repository: str) -> list[str]:
    """The same with the names of Llama spelled as NVIDIA does; of 3 and 3.1, which are mixed up, the other one too."""
    match = _LLAMA.search(repository)
    if not match:
        return []
    spellings = [f"llama-3.{match[1]}-" if match[1] else "llama3-", "llama-3.1-", "llama3-"]
    if match[1] not in (None, "1"):
        spellings = spellings[:1]
    names = [repository[: match.start()] + spelling + repository[match.end() :] for spelling in spellings]
    return [name for name in dict.fromkeys(names) if name != repository]


def _version(tag: str) -> tuple[int, ...]:
    match = re.match(r"v?(\d+(?:\.\d+)*)", tag)
    return tuple(map(int, match[1].split("."))) if match else ()
