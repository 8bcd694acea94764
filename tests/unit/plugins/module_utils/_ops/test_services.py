# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: Contributors to gpuops.nim
"""Entries of `services`: laid over the top level, checked with the module's own specification."""

from __future__ import annotations

import pytest

from ansible_collections.gpuops.nim.plugins.module_utils._kube.auth import AUTH_ARGUMENTS
from ansible_collections.gpuops.nim.plugins.module_utils._ops.result import OpsError
from ansible_collections.gpuops.nim.plugins.module_utils._ops.services import (
    SERVICE_ARGUMENTS,
    TASK_ARGUMENTS,
    BadEntry,
    read_all,
)
from ansible_collections.gpuops.nim.tests.unit.plugins.module_utils.scene import options


def task(*entries, **top):
    return {**options(name=None, image=None), "services": list(entries) if entries else None, **top}


def entries(params):
    return [entry.params for entry, _ in read_all(params, lambda params: None)]


def test_no_option_has_two_meanings():
    names = [
        name
        for arguments in (AUTH_ARGUMENTS, SERVICE_ARGUMENTS, TASK_ARGUMENTS)
        for option, spec in arguments.items()
        for name in (option, *spec.get("aliases", ()))
    ]
    assert len(names) == len(set(names))
    assert "args" not in names  # Ansible itself takes it out of a task's options and merges it into them


def test_the_top_level_alone_is_one_service():
    assert [p["name"] for p in entries(task(name="a"))] == ["a"]


def test_an_entry_lies_over_the_top_level():
    one, two = entries(task({"name": "a", "gpus": "2", "env": {"B": 1}}, {"name": "b"}, gpus=4, env={"A": 1}))
    assert (one["gpus"], one["env"]) == (2, {"B": 1})
    assert (two["gpus"], two["env"], two["namespace"]) == (4, {"A": 1}, "default")


def test_aliases_and_nested_defaults():
    (entry,) = entries(task({"name": "a", "replicas": 3, "image_pull_secret": "x", "cache": {"claim": "c"}}))
    assert (entry["min_replicas"], entry["image_pull_secrets"]) == (3, ["x"])
    assert (entry["cache"]["path"], entry["cache"]["access_modes"]) == ("/mnt/models", ["ReadWriteOnce"])


def test_null_means_not_given():
    (entry,) = entries(task({"name": "a", "gpus": None}, gpus=4))
    assert entry["gpus"] == 4


def test_no_entries_are_no_services():
    assert entries({**task(), "services": []}) == []


BAD = [
    ([{"name": "a", "gpus": "two"}], "services[0].gpus: "),
    ([{"name": "a", "gpu": 1}], "services[0].gpu: there is no such option for a service; did you mean gpus?"),
    ([{"name": "a", "wait": False}], "services[0].wait: belongs to the task as a whole"),
    (
        [{"name": "a", "host": "x"}],
        "services[0].host: there is no such option for a service; did you mean endpoint_host?",
    ),
    ([{"name": "a", "kubeconfig": "x"}], "services[0].kubeconfig: there is no such option"),
    ([{"name": "a", "update_strategy": "fast"}], "services[0].update_strategy: "),
    ([{"name": "a", "cache": {"path": "/m"}}], "services[0].cache: "),
    ([{"name": "a", "replicas": 1, "min_replicas": 1}], "services[0].min_replicas: is the same as min_replicas"),
    ([{"name": "a"}, {"name": "a"}], "services[1].name: default/a is already services[0]"),
]


@pytest.mark.parametrize(("services", "message"), BAD)
def test_bad_entries(services, message):
    with pytest.raises(OpsError) as caught:
        entries(task(*services))
    assert caught.value.message.startswith(message)


def test_all_bad_entries_are_said_at_once():
    def read(params):
        raise BadEntry([("gpus", "bad"), ("port", "bad too")])

    with pytest.raises(OpsError) as caught:
        read_all(task({"name": "a"}, {"name": "b", "gpu": 1}, wait_timeout=-1), read)
    assert [line.split(":")[0] for line in caught.value.message.splitlines()] == [
        "wait_timeout",
        "services[0].gpus",
        "services[0].port",
        "services[1].gpu",
    ]


def test_a_name_beside_services_is_an_error():
    with pytest.raises(OpsError, match="name: is given beside services"):
        entries(task({"name": "a"}, name="b"))
