# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import copy
from typing import Any

import pytest

from ansible_collections.gpuops.nim.plugins.module_utils._kube.redact import redact


def secret(**data: str) -> dict[str, Any]:
    return {"kind": "Secret", "metadata": {"name": "s"}, "data": data}


def pod(name: str, value: str) -> dict[str, Any]:
    return {"kind": "Pod", "spec": {"containers": [{"name": "c", "env": [{"name": name, "value": value}]}]}}


def env(obj: dict[str, Any]) -> str:
    value: str = obj["spec"]["containers"][0]["env"][0]["value"]
    return value


def test_secrets_keep_their_keys_only() -> None:
    whole = secret(a="c2VjcmV0") | {"stringData": {"b": "plain"}}
    before = copy.deepcopy(whole)
    hidden = redact(whole)
    assert hidden["data"] == {"a": "<hidden>"}
    assert hidden["stringData"] == {"b": "<hidden>"}
    assert hidden["metadata"] == {"name": "s"}
    assert whole == before


def test_a_diff_says_which_values_differ() -> None:
    hidden = redact(secret(a="1", b="2", c="3"), secret(a="1", b="other"))
    assert hidden["data"] == {"a": "<hidden>", "b": "<hidden, changed>", "c": "<hidden, changed>"}


@pytest.mark.parametrize(
    "name", ["NGC_API_KEY", "HF_TOKEN", "password", "AWS_SECRET_ACCESS_KEY", "X-Api-Key", "APIKEY"]
)
def test_env_values_named_like_secrets_are_hidden(name: str) -> None:
    assert env(redact(pod(name, "v"))) == "<hidden>"
    assert env(redact(pod(name, "v"), pod(name, "v"))) == "<hidden>"
    assert env(redact(pod(name, "v"), pod(name, "w"))) == "<hidden, changed>"


@pytest.mark.parametrize("name", ["NIM_CACHE_PATH", "NIM_MAX_TOKENS", "TOKENIZER", "MONKEY", "NIM_HTTP_API_PORT"])
def test_other_env_values_stay(name: str) -> None:
    assert env(redact(pod(name, "v"))) == "v"


def test_entries_are_compared_by_name_not_by_place() -> None:
    old, new = pod("A_KEY", "1"), pod("A_KEY", "1")
    new["spec"]["containers"][0]["env"].insert(0, {"name": "FIRST", "value": "x"})
    assert redact(new, old)["spec"]["containers"][0]["env"][1]["value"] == "<hidden>"


def test_kubectls_copy_of_the_manifest_goes() -> None:
    notes = {"kubectl.kubernetes.io/last-applied-configuration": '{"data": "x"}', "kept": "y"}
    assert redact({"kind": "Secret", "metadata": {"annotations": notes}})["metadata"]["annotations"] == {"kept": "y"}


def test_secrets_inside_other_objects_are_found() -> None:
    revision = {"kind": "ControllerRevision", "data": {"items": [secret(a="1"), pod("A_TOKEN", "2")]}}
    items = redact(revision)["data"]["items"]
    assert items[0]["data"] == {"a": "<hidden>"}
    assert env(items[1]) == "<hidden>"
