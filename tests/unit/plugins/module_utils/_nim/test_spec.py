# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: Contributors to gpuops.nim
"""Bad input: each with its own message that names the option and says what would be right."""

from __future__ import annotations

import pytest

from ansible_collections.gpuops.nim.plugins.module_utils._nim import spec
from ansible_collections.gpuops.nim.tests.unit.plugins.module_utils.bad_options import BAD
from ansible_collections.gpuops.nim.tests.unit.plugins.module_utils.scene import options


@pytest.mark.parametrize(("given", "option", "words"), BAD)
def test_bad_options(given, option, words):
    with pytest.raises(spec.BadSpec) as caught:
        spec.read(options(**given))
    assert [name for name, _ in caught.value.errors] == [option]
    assert words in caught.value.errors[0][1]


def test_each_has_a_message_of_its_own():
    said = []
    for given, _, _ in BAD:
        with pytest.raises(spec.BadSpec) as caught:
            spec.read(options(**given))
        said += caught.value.errors
    assert len(set(said)) == len(said) >= 150


def test_all_that_is_wrong_is_said_at_once():
    with pytest.raises(spec.BadSpec) as caught:
        spec.read(options(name="X", memory="32GB", gpus=-1, port=0))
    assert {name for name, _ in caught.value.errors} == {"name", "memory", "gpus", "port"}


def test_values_become_what_kubernetes_wants():
    read = spec.read(
        options(
            env={"A": True, "B": 8, "C": 0.5},
            security_context={"runAsUser": "0"},
            env_from_secret={"HF_TOKEN": {"secret": "other", "key": "token"}},
        )
    )
    assert read.env == {"A": "true", "B": "8", "C": "0.5"}
    assert read.security_context == {"runAsUser": 0}
    assert read.env_from_secret["HF_TOKEN"] == spec.SecretKey("other", "token")


WARNINGS = [
    ({"memory": "16Gi", "share_memory": "16Gi"}, "share_memory"),
    ({"image": "nvcr.io/nim/meta/llama3-8b-instruct"}, "no fixed tag"),
    ({"min_replicas": 2, "cache": {"claim": "c", "path": "/m", "size": "9Gi"}}, "ReadWriteMany"),
]


@pytest.mark.parametrize(("given", "words"), WARNINGS)
def test_what_works_but_deserves_a_word(given, words):
    assert any(words in warning for warning in spec.read(options(**given)).warnings)


def test_the_defaults_deserve_none():
    assert spec.read(options()).warnings == ()


def test_identity_needs_the_name_alone():
    assert spec.identity({"name": "a", "namespace": "b"}) == ("b", "a")
    with pytest.raises(spec.BadSpec):
        spec.identity({"name": "A", "namespace": "b"})
