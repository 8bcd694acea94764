# SPDX-License-Identifier: GPL-3.0-or-later
"""What is recorded of a service, and how many."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest

from ansible_collections.gpuops.nim.plugins.module_utils._kube.auth import connect
from ansible_collections.gpuops.nim.plugins.module_utils._kube.client import Client
from ansible_collections.gpuops.nim.plugins.module_utils._ops import revisions
from ansible_collections.gpuops.nim.tests.unit.fake_apiserver import FakeApiServer

FIELDS = {
    "f:metadata": {"f:annotations": {"f:serving.kserve.io/stop": {}, "f:mine": {}}},
    "f:spec": {
        "f:predictor": {"f:containers": {'k:{"name":"kserve-container"}': {".": {}, "f:name": {}, "f:image": {}}}}
    },
}
LIVE: dict[str, Any] = {
    "apiVersion": "serving.kserve.io/v1beta1",
    "kind": "InferenceService",
    "metadata": {
        "name": "llama",
        "namespace": "nim",
        "uid": "u",
        "annotations": {"mine": "1", "theirs": "2", "serving.kserve.io/stop": "true"},
        "managedFields": [{"manager": "gpuops.nim", "operation": "Apply", "fieldsV1": FIELDS}],
    },
    "spec": {"predictor": {"timeout": 5, "containers": [{"name": "kserve-container", "image": "a:1", "tty": True}]}},
}
CONTENT = {
    "metadata": {"annotations": {"mine": "1"}},
    "spec": {"predictor": {"containers": [{"name": "kserve-container", "image": "a:1"}]}},
}


@pytest.fixture
def api() -> Iterator[FakeApiServer]:
    with FakeApiServer() as server:
        server.served.add("apps/v1")
        server.put({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "nim"}})
        yield server


@pytest.fixture
def client(api: FakeApiServer) -> Client:
    return connect({"host": api.url, "api_key": "token-of-the-tests"})


def test_the_content_is_what_we_own_and_nothing_that_stops_a_service() -> None:
    assert revisions.content_of(LIVE) == CONTENT


def test_of_what_others_made_it_is_all() -> None:
    theirs = copy.deepcopy(LIVE)
    theirs["metadata"]["managedFields"][0]["manager"] = "kubectl"
    content = revisions.content_of(theirs)
    assert content["spec"] == theirs["spec"]
    assert content["metadata"]["annotations"] == {"mine": "1", "theirs": "2"}


def test_an_image_that_somebody_else_set_is_recorded_all_the_same() -> None:
    edited = copy.deepcopy(LIVE)
    del edited["metadata"]["managedFields"][0]["fieldsV1"]["f:spec"]["f:predictor"]["f:containers"][
        'k:{"name":"kserve-container"}'
    ]["f:image"]
    assert revisions.content_of(edited) == CONTENT


def test_the_same_content_is_one_revision_and_the_oldest_go(client: Client, api: FakeApiServer) -> None:
    def write(number: int, upgrading: str = "") -> revisions.Revision:
        content = {**CONTENT, "spec": {"predictor": {"minReplicas": number}}}
        known = revisions.of(client, LIVE)
        return revisions.write(client, LIVE, content, known, upgrading=upgrading, check_mode=False)[0]

    first, second = write(1, "a:2"), write(2)
    assert [each.number for each in revisions.of(client, LIVE)] == [2, 1]
    assert revisions.of(client, LIVE)[1] == first
    before = len(api.writes)
    assert write(2) == second
    assert len(api.writes) == before
    assert write(1).number == 3
    (newest, _) = known = revisions.of(client, LIVE)
    assert (newest.name, newest.upgrading) == (first.name, "")
    revisions.prune(client, LIVE, known, 1, check_mode=False)
    assert [each.name for each in revisions.of(client, LIVE)] == [first.name]
    # a service that was made anew under the old name has no past
    assert revisions.of(client, {**LIVE, "metadata": {**LIVE["metadata"], "uid": "another"}}) == []
