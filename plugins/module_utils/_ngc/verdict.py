# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""What can be said about one key and one image, and on what evidence. Plain values; no questions are asked here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Optional

VERDICTS = (
    "not_needed",
    "valid",
    "invalid",
    "expired",
    "not_entitled",
    "no_such_image",
    "blocked",
    "rate_limited",
    "unavailable",
    "network",
    "unknown",
)
GOOD = ("not_needed", "valid")
REFUSED = ("invalid", "expired", "not_entitled", "no_such_image", "blocked")
KINDS = ("personal", "service", "legacy", "unknown")


@dataclass(frozen=True)
class Evidence:
    """One question and its answer. ``said`` is short and holds no secret; ``status`` is None where none came.

    auth: with what kind of login it was asked: ``basic``, ``bearer``, ``apikey``; empty for none.
    """

    endpoint: str  # method and URL, without its query
    status: Optional[int]
    said: str
    at: str  # UTC, such as 2026-01-31T12:00:00Z
    auth: str = ""


@dataclass(frozen=True)
class ImageFacts:
    """What the manifest tells. None, or empty, is unknown.

    size: compressed bytes of the layers for one architecture, amd64 where there is one. classic: whether the classic
    NIM contract (model manifest, list-model-profiles, download-to-cache) applies. release: the version in the tag;
    line: the release line that it belongs to.
    """

    digest: str = ""
    size: Optional[int] = None
    architectures: tuple[str, ...] = ()
    classic: Optional[bool] = None
    release: str = ""
    line: str = ""


@dataclass(frozen=True)
class Judgement:
    """A word of VERDICTS, the reason in a sentence or two, and what to do about it (empty where nothing need be)."""

    verdict: str
    cause: str
    remedy: str = ""


@dataclass(frozen=True)
class Verdict(Judgement):
    """The judgement about one image. ``nearest``: images that exist and are called much the same, the nearest first."""

    image: str = ""
    evidence: tuple[Evidence, ...] = ()
    facts: Optional[ImageFacts] = None
    nearest: tuple[str, ...] = ()

    @property
    def good(self) -> bool:
        """The image can be had."""
        return self.verdict in GOOD

    @property
    def refused(self) -> bool:
        """It is established that this key will not do; an outage never is."""
        return self.verdict in REFUSED


@dataclass(frozen=True)
class KeyInfo(Judgement):
    """What NGC itself says about a key, whatever the image: valid, invalid, expired, or why that isn't known.

    kind: one of KINDS. organisation: the NGC organisation it was made in. products: the services that it may use, as
    NGC calls them; None where NGC doesn't say.
    """

    kind: str = "unknown"
    organisation: str = ""
    products: Optional[tuple[str, ...]] = None
    evidence: tuple[Evidence, ...] = field(default=())
