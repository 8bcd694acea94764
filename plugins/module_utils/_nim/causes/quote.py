# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""What is quoted of a cluster as evidence: one line, where it stands, and nothing that looks like a credential."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from ..states import Object, moment

LIMIT = 1500  # characters of one quotation

_SECRETS = (
    (re.compile(r"nvapi-[\w-]{4,}"), "nvapi-***"),
    (re.compile(r"\b(hf_)[A-Za-z0-9]{8,}"), r"\1***"),
    (re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{8,}"), r"\1 ***"),
    (re.compile(r"\beyJ[\w-]+\.[\w-]+\.[\w-]*"), "***"),
    (re.compile(r"(://)[^/\s:@]+:[^/\s@]+@"), r"\1***@"),
    # key=value, "key": "value" and key:value; not "oauth token: unexpected status", which is prose.
    (
        re.compile(
            r"""(?i)\b([\w-]*(?:api[_-]?key|password|passwd|secret|token|credentials?)(?:\s*=\s*|["']\s*:\s*|:(?=\S))["']?)(?!\*\*\*)[^\s"',;&]{6,}"""
        ),
        r"\1***",
    ),
)


def redact(text: str) -> str:
    """Return ``text`` without what looks like a credential."""
    for pattern, cover in _SECRETS:
        text = pattern.sub(cover, text)
    return text


def quote(texts: Iterable[str]) -> tuple[str, ...]:
    """Return the texts as evidence; empty ones are left out."""
    return tuple(redact(re.sub(r"\s+", " ", text).strip())[:LIMIT] for text in texts if text and text.strip())


def time(event: Object) -> datetime | None:
    """When an event was last seen."""
    return moment(event.get("lastTimestamp") or event.get("eventTime"))


def event(found: Object) -> str:
    about = found.get("involvedObject", {})
    return f"event of {str(about.get('kind', 'pod')).lower()} {about.get('name')}: {_said(found)}"


def condition(kind: str, obj: Object, found: Object) -> str:
    """Quote a condition of an object; ``kind`` as people call it."""
    return f"condition {found.get('type')} of {kind} {obj['metadata']['name']} is {found.get('status')}: {_said(found)}"


def container(pod: Object, status: Object) -> str:
    """Quote why a container waits."""
    return f"container {status.get('name')} of pod {pod['metadata']['name']}: {_said(status['state']['waiting'])}"


def log(pod: Object, lines: Iterable[str]) -> list[str]:
    return [f"log of pod {pod['metadata']['name']}: {line}" for line in lines]


def _said(found: Any) -> str:
    return ": ".join(str(found[key]) for key in ("reason", "message") if found.get(key))
