# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import sys
from pathlib import Path

import pytest

from ansible_collections.gpuops.nim.plugins.module_utils._host import toml

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # what pytest needs there

RECORDED = sorted((Path(__file__).parent / "systems" / "containerd").glob("*.toml"))


def read(text):
    """As on Python before 3.11."""
    return toml._Reader(text).document()


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_recorded_configurations_read_as_pythons_own_library_does(path):
    text = path.read_text()
    assert read(text) == tomllib.loads(text) == toml.loads(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# nothing but a comment",
        "a = 1 # one\nb=-2\nc = 1_000\nd = 1.5\ne = true\nf = false",
        'a = "quoted \\"twice\\" \\t"\nb = \'C:\\plain\'\n"with space" = 1',
        "a = [1, 2,\n  3, # three\n]\nb = []\nc = [['x'], [\"y\"]]",
        "a.b.c = 1\na.b.d = 2\n[x.'y.z']\nk = {one = 1, two.three = 'x'}\nempty = {}",
        "[ a . b ]\r\nk = 1\r\n",
    ],
)
def test_what_is_known_reads_as_pythons_own_library_does(text):
    assert read(text) == tomllib.loads(text)


@pytest.mark.parametrize(
    "text",
    [
        "[[table]]\na = 1",
        'a = """over\nlines"""',
        "a = 1979-05-27T07:32:00Z",
        "a = 1979-05-27",
        "a = 0x1f",
        "a = 'no end",
        "a = [1, 2",
        "a = 1 b = 2",
        "a 1",
        "= 1",
        "[a",
        "a = 1\na = 2",
        "a = 1\n[a]\nb = 2",
        "a =",
    ],
)
def test_what_is_not_known_is_refused_with_its_line(text):
    with pytest.raises(toml.TomlError, match=r"\(line \d\)"):
        read(text)


def test_a_fault_has_its_place():
    with pytest.raises(toml.TomlError, match="line 2"):
        toml.loads("version = 2\nroot = /var\n")
    with pytest.raises(toml.TomlError, match="line 2"):
        read("version = 2\nroot = /var\n")
