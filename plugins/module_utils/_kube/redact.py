# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""Takes secret values out of objects before anybody sees them."""

from __future__ import annotations

import re
from typing import Any

HIDDEN = "<hidden>"
HIDDEN_CHANGED = "<hidden, changed>"
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"

_SECRET_NAME = re.compile(
    r"(?:^|[_-])(?:API)?(?:KEY|TOKEN|SECRET|PASSWORD|PASSWD|PASS|PWD|CREDENTIALS?|AUTHORIZATION)(?:$|[_-])", re.I
)
_ABSENT = object()


def redact(obj: dict[str, Any], other: dict[str, Any] | None = None) -> dict[str, Any]:
    """A copy of ``obj`` without secret values.

    Secrets keep their keys, env entries whose name looks secret their name; kubectl's last-applied annotation goes.
    With ``other``, the state to compare with, a hidden value that differs there reads ``<hidden, changed>``.
    """
    hidden: dict[str, Any] = _walk(obj, _ABSENT if other is None else other)
    return hidden


def _mask(value: Any, other: Any) -> str:
    return HIDDEN if other is _ABSENT or other == value else HIDDEN_CHANGED


def _get(mapping: Any, key: str) -> Any:
    if mapping is _ABSENT:
        return _ABSENT
    return mapping.get(key) if isinstance(mapping, dict) else None


def _walk(node: Any, other: Any) -> Any:
    if isinstance(node, list):
        return [_walk(item, _counterpart(item, i, other)) for i, item in enumerate(node)]
    if not isinstance(node, dict):
        return node
    secret = node.get("kind") == "Secret"
    copy: dict[Any, Any] = {}
    for key, value in node.items():
        theirs = _get(other, key)
        if secret and key in ("data", "stringData") and isinstance(value, dict):
            copy[key] = {k: _mask(v, _get(theirs, k)) for k, v in value.items()}
        elif key == "value" and _SECRET_NAME.search(str(node.get("name", ""))):
            copy[key] = _mask(value, theirs)
        elif key == "annotations" and isinstance(value, dict):
            copy[key] = {k: v for k, v in value.items() if k != LAST_APPLIED}
        else:
            copy[key] = _walk(value, theirs)
    return copy


def _counterpart(item: Any, index: int, other: Any) -> Any:
    """The entry of the other list that stands for the same thing: by name where there is one, else by place."""
    if other is _ABSENT or not isinstance(other, list):
        return _ABSENT if other is _ABSENT else None
    if isinstance(item, dict) and "name" in item:
        return next((o for o in other if isinstance(o, dict) and o.get("name") == item["name"]), None)
    return other[index] if index < len(other) else None
