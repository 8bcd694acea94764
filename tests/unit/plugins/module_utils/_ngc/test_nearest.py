# SPDX-License-Identifier: GPL-3.0-or-later
"""Which names are offered to someone who wrote one that doesn't exist."""

from __future__ import annotations

import pytest

from ansible_collections.gpuops.nim.plugins.module_utils._ngc.nearest import (
    KNOWN,
    find,
    near_names,
    near_tags,
    respelled,
)


@pytest.mark.parametrize(
    ("wanted", "tags", "nearest"),
    [
        ("1.0.1", ["1.0.3", "1.0.0", "latest", "2.0.0"], ["1.0.0", "1.0.3", "2.0.0", "latest"]),
        ("2", ["1.8.0", "2.0.12", "2.0.1"], ["2.0.1", "2.0.12", "1.8.0"]),
        ("1.10.0", ["1.1.0", "1.9.0", "1.10.1"], ["1.10.1", "1.9.0", "1.1.0"]),
        ("1.8.0-variant", ["1.8.0", "1.8.0-rtx", "1.8.1"], ["1.8.0-rtx", "1.8.0", "1.8.1"]),
        ("latst", ["1.0.0", "latest"], ["latest", "1.0.0"]),
        ("1", [], []),
    ],
)
def test_tags_by_their_distance(wanted: str, tags: list[str], nearest: list[str]) -> None:
    assert near_tags(wanted, tags) == nearest


@pytest.mark.parametrize(
    ("wrong", "spellings"),
    [
        ("nim/meta/llama-3-8b-instruct", ["nim/meta/llama3-8b-instruct", "nim/meta/llama-3.1-8b-instruct"]),
        ("nim/meta/llama3-8b-instruct", ["nim/meta/llama-3.1-8b-instruct"]),
        ("nim/meta/llama-3.1-8b-instruct", ["nim/meta/llama3-8b-instruct"]),
        ("nim/meta/llama3.1-70b-instruct", ["nim/meta/llama-3.1-70b-instruct", "nim/meta/llama3-70b-instruct"]),
        ("a/b/c/llama-3-2-1b-instruct", ["a/b/c/llama-3.2-1b-instruct"]),
        ("nim/mistralai/mistral-7b-instruct-v03", []),
    ],
)
def test_llamas_are_spelled_in_two_ways(wrong: str, spellings: list[str]) -> None:
    assert respelled(wrong) == spellings


@pytest.mark.parametrize(
    ("wrong", "first"),
    [
        ("nim/meta/llama3-8b-instuct", "nim/meta/llama3-8b-instruct"),
        ("nim/nvidia/nv-embedqa-e5", "nim/nvidia/nv-embedqa-e5-v5"),
        ("nim/mistralai/mixtral-8x7b-instruct", "nim/mistralai/mixtral-8x7b-instruct-v01"),
        ("nim/mistral/mistral-7b-instruct-v0.3", "nim/mistralai/mistral-7b-instruct-v03"),
    ],
)
def test_repositories_by_their_spelling(wrong: str, first: str) -> None:
    assert near_names(wrong, KNOWN)[0] == first


def test_what_is_like_nothing_gets_no_offer() -> None:
    assert near_names("nim/nobody/knows-this", KNOWN) == []
    assert find("nvcr.io", "x/y", "1", lambda name: [], lambda: KNOWN).images == ()


def test_only_a_few_repositories_are_asked_and_names_only_if_the_repository_is_missing() -> None:
    asked: list[str] = []

    def tags_of(name: str) -> list[str]:
        asked.append(name)
        return []

    names = [f"nim/meta/model-{number}" for number in range(50)]
    assert find("nvcr.io", "nim/meta/model-x", "1", tags_of, lambda: names).repository is False
    assert len(asked) == 4

    def nobody_asks() -> list[str]:
        raise AssertionError

    assert find("nvcr.io", "nim/meta/model-1", "1", lambda name: ["2"], nobody_asks).images == (
        "nvcr.io/nim/meta/model-1:2",
    )


def test_nobody_said_is_not_that_there_is_none() -> None:
    assert find("nvcr.io", "nim/meta/x", "1", lambda name: None, lambda: ()).repository is None
