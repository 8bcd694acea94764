# SPDX-License-Identifier: GPL-3.0-or-later
"""Kinds of keys by their looks, and what NGC's refusals say about them."""

from __future__ import annotations

import base64

import pytest

from ansible_collections.gpuops.nim.plugins.module_utils._ngc.caller import refused, shape

UUID = "122ba857-1083-4d54-bdff-d796959decd5"


@pytest.mark.parametrize(
    ("key", "is_"),
    [
        ("nvapi-0123456789abcdefghijklmnop", "nvapi"),
        (base64.b64encode(f"abcdefghijklmnopqrstuvwx12:{UUID}".encode()).decode(), "legacy"),
        (base64.b64encode(f"tooshort:{UUID}".encode()).decode(), "unknown"),
        ("0123456789abcdefghijklmnop", "unknown"),
        ("not base64 at all, for sure", "unknown"),
    ],
)
def test_kinds_by_their_looks(key: str, is_: str) -> None:
    assert shape(key) == is_


@pytest.mark.parametrize(
    ("status", "said", "verdict"),
    [
        (401, "Invalid API key.", "invalid"),
        (401, "", "invalid"),
        (401, "API key has expired", "expired"),
        (403, "Forbidden", "unknown"),
        (404, "", "unknown"),
        (307, "Temporary Redirect", "unknown"),
    ],
)
def test_only_a_401_is_about_the_key(status: int, said: str, verdict: str) -> None:
    judgement = refused(status, said)
    assert judgement.verdict == verdict
    assert judgement.remedy
