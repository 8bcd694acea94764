# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: Contributors to gpuops.nim
from __future__ import annotations

import pytest

from ansible_collections.gpuops.nim.plugins.module_utils._ngc.key import BadKey, clean

KEY = "nvapi-rehearsal-valid-0123456789abcdefghijklmnopqrstuvwxyz"
LEGACY = "bHZ1dDQxZ3Zqc2RmamtsYXNkZjoxMjM0NTY3OC05MGFiLWNkZWY="


@pytest.mark.parametrize("given", [KEY, f"{KEY}\n", f"  {KEY}\r\n", f"\ufeff{KEY}".lstrip("\ufeff"), LEGACY])
def test_good_keys_lose_what_is_around_them(given):
    assert clean(given) == given.strip()


BAD = [
    (None, "no key"),
    ("", "no key"),
    (" \n", "no key"),
    ("<your key>", "angle brackets"),
    ("{{ ngc_api_key }}", "template"),
    ("$NGC_API_KEY", "shell variable"),
    ("${NGC_API_KEY}", "shell variable"),
    ("your-ngc-api-key-goes-here", "placeholder"),
    ("nvapi-your-key-here-please", "placeholder"),
    ("changeme", "placeholder"),
    ("change_me", "placeholder"),
    ("xxxxxxxxxxxxxxxxxxxxxxxxx", "placeholder"),
    ("nvapi-xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx", "placeholder"),
    ("nvapi-...", "placeholder"),
    ("nvapi-…", "placeholder"),
    ("nvapi-short", "characters"),
    ("nvapi-0123456789 abcdefghijklmnop", "white space"),
    ("nvapi-0123456789\nabcdefghijklmnop", "white space"),
    ("nvapi-0123456789\x00abcdefghijklmnop", "control"),
    ("nvapi-0123456789äöüéñabcdefghijklm", "non-ASCII"),
]


@pytest.mark.parametrize(("given", "words"), BAD)
def test_bad_keys_are_refused_without_being_shown(given, words):
    with pytest.raises(BadKey) as caught:
        clean(given, option="my_option")
    message = caught.value.message
    assert message.startswith("my_option: ")
    assert words in message
    assert "0123456789" not in message
    assert not given or given.strip() == "" or given not in message
