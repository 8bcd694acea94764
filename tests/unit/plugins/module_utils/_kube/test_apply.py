# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from ansible_collections.gpuops.nim.plugins.module_utils._kube.apply import ensure, ensure_absent
from ansible_collections.gpuops.nim.plugins.module_utils._kube.client import Client
from ansible_collections.gpuops.nim.plugins.module_utils._kube.errors import (
    AdmissionDenied,
    Conflict,
    Deleting,
    Foreign,
    NotFound,
)
from ansible_collections.gpuops.nim.plugins.module_utils._kube.ownership import MANAGED_BY
from ansible_collections.gpuops.nim.tests.unit.fake_apiserver import FakeApiServer

API = "serving.kserve.io/v1beta1"


def service(namespace: str = "default", **spec: Any) -> dict[str, Any]:
    metadata = {"name": "llama", "namespace": namespace}
    return {"apiVersion": API, "kind": "InferenceService", "metadata": metadata, "spec": {"image": "a", **spec}}


def secret(**data: str) -> dict[str, Any]:
    encoded = {key: base64.b64encode(value.encode()).decode() for key, value in data.items()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s", "namespace": "default"}, "data": encoded}


def foreign(**metadata: Any) -> dict[str, Any]:
    obj = service()
    obj["metadata"].update(metadata)
    return obj


def live(api: FakeApiServer) -> dict[str, Any]:
    obj = api.get("InferenceService", "default", "llama")
    assert obj is not None
    return obj


def test_check_then_real_then_nothing(client: Client, api: FakeApiServer) -> None:
    planned = ensure(client, service(), check_mode=True)
    assert (planned.action, planned.changed) == ("created", True)
    assert api.writes == []
    made = ensure(client, service())
    assert (made.action, made.before) == ("created", None)
    assert made.diff == planned.diff
    assert made.diff["after"]["metadata"]["labels"] == MANAGED_BY
    before = len(api.writes)
    again = ensure(client, service())
    assert (again.action, again.changed) == ("unchanged", False)
    assert again.diff["before"] == again.diff["after"]
    assert len(api.writes) == before


def test_a_change_shows_what_the_server_made_of_it(client: Client, api: FakeApiServer) -> None:
    def webhook(obj: dict[str, Any]) -> None:
        obj["spec"].setdefault("cpu", f"for {obj['spec']['image']}")

    api.mutate = webhook
    ensure(client, service())
    api.mutate = lambda obj: obj["spec"].update(limit=len(obj["spec"]["image"]))
    change = ensure(client, service(image="bbb"))
    assert change.action == "changed"
    assert change.diff["before"]["spec"] == {"image": "a", "cpu": "for a"}
    assert change.diff["after"]["spec"] == {"image": "bbb", "cpu": "for a", "limit": 3}
    assert change.diff["before_header"] == "InferenceService default/llama"
    for side in ("before", "after"):
        assert change.diff[side]["metadata"].keys() == {"name", "namespace", "labels"}
        assert "status" not in change.diff[side]


def test_a_field_we_drop_goes_and_what_others_set_stays(client: Client, api: FakeApiServer) -> None:
    ensure(client, service(old="1"))
    api.edit("InferenceService", "default", "llama", "spec.theirs", 5, "hpa")
    change = ensure(client, service())
    assert change.diff["after"]["spec"] == {"image": "a", "theirs": 5}


def test_our_field_in_other_hands_is_a_conflict_that_names_them(client: Client, api: FakeApiServer) -> None:
    ensure(client, service(replicas=1))
    api.edit("InferenceService", "default", "llama", "spec.replicas", 4, "kubectl-edit")
    before = len(api.writes)
    with pytest.raises(Conflict) as stop:
        ensure(client, service(replicas=2))
    assert (stop.value.managers, stop.value.fields) == (("kubectl-edit",), (".spec.replicas",))
    assert stop.value.message.startswith("InferenceService default/llama: .spec.replicas is held by kubectl-edit")
    assert "adopt: true" in stop.value.message
    assert len(api.writes) == before

    taken = ensure(client, service(replicas=2), adopt=True)
    assert taken.action == "changed"
    assert "took over .spec.replicas from kubectl-edit" in taken.warnings[0]
    assert live(api)["spec"]["replicas"] == 2
    assert ensure(client, service(replicas=2)).action == "unchanged"


@pytest.mark.parametrize(
    ("metadata", "manager", "said"),
    [
        ({}, "kubectl-client-side-apply", "last written by kubectl-client-side-apply"),
        ({"annotations": {"meta.helm.sh/release-name": "web"}}, "helm", "made by Helm release web"),
        (
            {
                "labels": {"heritage": "Helm", "servingType": "kserve", "servingName": "llama", "release": "llama"},
                "annotations": {"arena.kubeflow.org/username": "jane"},
            },
            "arena",
            "made by arena for user jane",
        ),
        ({"labels": {"app.kubernetes.io/managed-by": "argocd"}}, "argo", "labelled as managed by argocd"),
        ({"ownerReferences": [{"kind": "NIMService", "name": "n"}]}, "manager", "owned by NIMService n"),
    ],
)
def test_what_others_made_is_left_alone(
    client: Client, api: FakeApiServer, metadata: dict[str, Any], manager: str, said: str
) -> None:
    api.put(foreign(**metadata), manager)
    for check_mode in (True, False):
        with pytest.raises(Foreign) as stop:
            ensure(client, service(image="b"), check_mode=check_mode)
        with pytest.raises(Foreign) as stop_absent:
            ensure_absent(client, API, "InferenceService", "llama", "default", check_mode=check_mode)
    for message in (stop.value.message, stop_absent.value.message):
        assert "InferenceService default/llama exists and isn't ours" in message
        assert said in message
        assert "adopt: true" in message
    assert api.writes == []
    assert ensure(client, service(image="b"), adopt=True).diff["before"]["spec"] == {"image": "a"}
    assert ensure(client, service(image="b")).action == "unchanged"


def test_a_take_over_changes_the_content_once_and_leaves_the_fields_to_us_alone(
    client: Client, api: FakeApiServer
) -> None:
    api.put(foreign(), "kubectl-client-side-apply")
    content, ours = ensure(client, service(image="b"), adopt=True), live(api)
    assert content.after is not None
    assert ours["spec"] == {"image": "b"}
    assert [("dryRun" in each.query, each.query["fieldManager"]) for each in api.seen("PATCH")] == [
        (True, "gpuops.nim"),
        (False, "gpuops.nim-adopts"),
        (False, "gpuops.nim"),
    ]
    assert [entry["manager"] for entry in ours["metadata"]["managedFields"]] == ["gpuops.nim"]


def test_a_take_over_that_a_controller_writes_into_tells_what_was_there_before(
    client: Client, api: FakeApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.put(foreign(), "kubectl-client-side-apply")
    planned = ensure(client, service(image="b"), check_mode=True, adopt=True)
    patch, met = client.patch, []

    def and_then_the_controller(*args: Any, **more: Any) -> dict[str, Any]:
        answer = patch(*args, **more)
        if not met:  # between our two writes
            met.append(api.edit("InferenceService", "default", "llama", "status.seen", "yes", "manager"))
        return answer

    monkeypatch.setattr(client, "patch", and_then_the_controller)
    change = ensure(client, service(image="b"), adopt=True)
    assert live(api)["spec"] == {"image": "b"}
    assert (change.diff["before"], change.taken) == (planned.diff["before"], planned.taken)


def test_a_take_over_that_was_cut_off_is_finished_by_the_next_run(client: Client, api: FakeApiServer) -> None:
    api.put(foreign(), "kubectl-client-side-apply")
    api.put({**foreign(labels=dict(MANAGED_BY)), "spec": {"image": "b"}}, "gpuops.nim-adopts")
    cut = live(api)
    ensure(client, service(image="b"))
    assert live(api)["metadata"]["generation"] == cut["metadata"]["generation"]
    assert [entry["manager"] for entry in live(api)["metadata"]["managedFields"]] == ["gpuops.nim"]
    assert ensure(client, service(image="b")).action == "unchanged"


def test_ours_by_label_is_ours_though_we_never_applied_it(client: Client, api: FakeApiServer) -> None:
    api.put(foreign(labels=dict(MANAGED_BY)), "restored-from-backup")
    assert ensure(client, service()).action == "unchanged"


def test_an_object_on_its_way_out(client: Client, api: FakeApiServer) -> None:
    ensure(client, service())
    api.put(
        {
            **live(api),
            "metadata": {**live(api)["metadata"], "finalizers": ["f"], "deletionTimestamp": "2026-01-01T00:00:00Z"},
        }
    )
    with pytest.raises(Deleting, match=r"llama is being deleted \(since 2026-01-01T00:00:00Z, held by f\)"):
        ensure(client, service(image="b"))
    change = ensure_absent(client, API, "InferenceService", "llama", "default")
    assert (change.action, change.changed) == ("absent", False)
    assert "already being deleted" in change.warnings[0]


def test_a_namespace_that_the_same_run_would_make(client: Client, api: FakeApiServer) -> None:
    change = ensure(client, service("new"), check_mode=True)
    assert change.action == "created"
    assert change.diff["after"]["spec"] == {"image": "a"}
    assert "Namespace new doesn't exist yet" in change.warnings[0]
    with pytest.raises(NotFound, match="new"):
        ensure(client, service("new"))


def race(client: Client, monkeypatch: pytest.MonkeyPatch, what: Any, before: int) -> None:
    """Does ``what`` just before the client's n-th apply (1 = the dry run of an existing object)."""
    apply, calls = client.apply, []

    def raced(*args: Any, **rest: Any) -> dict[str, Any]:
        calls.append(1)
        if len(calls) == before:
            what()
        return apply(*args, **rest)

    monkeypatch.setattr(client, "apply", raced)


@pytest.mark.parametrize("before", [1, 2])
def test_a_change_by_others_meanwhile_is_not_reported_as_ours(
    client: Client, api: FakeApiServer, monkeypatch: pytest.MonkeyPatch, before: int
) -> None:
    ensure(client, service())
    race(client, monkeypatch, lambda: api.edit("InferenceService", "default", "llama", "spec.theirs", 7), before)
    change = ensure(client, service(image="b"))
    assert change.diff["before"]["spec"].get("theirs") in (None, 7)
    assert change.diff["after"]["spec"] == {"image": "b", "theirs": 7}
    assert live(api)["spec"] == {"image": "b", "theirs": 7}


def test_check_mode_and_a_change_by_others_meanwhile(
    client: Client, api: FakeApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    ensure(client, service())
    race(client, monkeypatch, lambda: api.edit("InferenceService", "default", "llama", "spec.theirs", 7), 1)
    assert ensure(client, service(), check_mode=True).action == "unchanged"


def test_what_was_just_read_is_not_read_again(client: Client, api: FakeApiServer) -> None:
    ensure(client, service())
    before = len(api.requests)
    assert ensure(client, service(), live=live(api)).action == "unchanged"
    assert [request.method for request in api.requests[before:]] == ["PATCH"]


@pytest.mark.parametrize("image", ["a", "b"])
@pytest.mark.parametrize("gone", [False, True])
def test_what_was_read_too_long_ago_is_read_again(client: Client, api: FakeApiServer, image: str, gone: bool) -> None:
    ensure(client, service())
    old = live(api)
    api.edit("InferenceService", "default", "llama", "spec.theirs", 7)
    if gone:
        api.remove("InferenceService", "default", "llama")
    change = ensure(client, service(image=image), live=old)
    assert change.action == ("created" if gone else "unchanged" if image == "a" else "changed")
    assert change.diff["before"].get("spec") == (None if gone else {"image": "a", "theirs": 7})
    assert live(api)["spec"] == {"image": image, **({} if gone else {"theirs": 7})}


def test_deleted_meanwhile_is_made_again(client: Client, api: FakeApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    ensure(client, service())
    race(client, monkeypatch, lambda: api.remove("InferenceService", "default", "llama"), 2)
    assert ensure(client, service(image="b")).action == "created"
    assert live(api)["spec"]["image"] == "b"


def test_made_by_somebody_else_at_the_same_moment_is_said(
    client: Client, api: FakeApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    race(client, monkeypatch, lambda: api.put(foreign(), "jane"), 1)
    change = ensure(client, service())
    assert change.action == "changed"
    assert "made by jane at the same moment" in change.warnings[0]


def test_a_write_whose_answer_was_lost_is_still_reported(client: Client, api: FakeApiServer) -> None:
    ensure(client, service())

    class SecondPatch(type(api.fault(times=0))):  # type: ignore[misc]
        def fits(self, request: Any) -> bool:
            return self.times > 0 and request.method == "PATCH" and request.writes

    api.faults.append(SecondPatch(reset="late"))
    change = ensure(client, service(image="b"))
    assert change.action == "changed"
    assert change.diff["before"]["spec"] == {"image": "a"}
    assert change.diff["after"]["spec"] == {"image": "b"}


def test_admission_refusals_come_through_in_check_mode(client: Client, api: FakeApiServer) -> None:
    api.fault(method="PATCH", status=403, message='admission webhook "w" denied the request: no GPU left')
    with pytest.raises(AdmissionDenied, match="no GPU left"):
        ensure(client, service(), check_mode=True)


def test_secrets_are_in_no_diff_and_no_repr(client: Client) -> None:
    ensure(client, secret(a="hush-hush-1", b="hush-hush-2"))
    change = ensure(client, secret(a="hush-hush-1", b="hush-hush-3", c="hush-hush-4"))
    shown = json.dumps(change.diff) + repr(change)
    for value in ("hush-hush", base64.b64encode(b"hush-hush").decode()[:10]):
        assert value not in shown
    assert change.diff["before"]["data"] == {"a": "<hidden>", "b": "<hidden>"}
    assert change.diff["after"]["data"] == {"a": "<hidden>", "b": "<hidden, changed>", "c": "<hidden, changed>"}


def test_absent(client: Client, api: FakeApiServer) -> None:
    where = (API, "InferenceService", "llama", "default")
    assert ensure_absent(client, *where).action == "absent"
    ensure(client, service())
    before = len(api.writes)
    assert ensure_absent(client, *where, check_mode=True).action == "deleted"
    assert len(api.writes) == before
    change = ensure_absent(client, *where)
    assert (change.action, change.changed) == ("deleted", True)
    assert change.diff["after"] == {}
    assert change.diff["before"]["spec"] == {"image": "a"}
    assert ensure_absent(client, *where).changed is False


def test_absent_is_what_a_kind_that_is_not_served_is(client: Client, api: FakeApiServer) -> None:
    api.served.discard(API)
    assert ensure_absent(client, API, "InferenceService", "llama", "default").action == "absent"


def test_absent_with_the_answer_lost_is_still_a_deletion(client: Client, api: FakeApiServer) -> None:
    ensure(client, service())
    api.fault(method="DELETE", reset="late")
    assert ensure_absent(client, API, "InferenceService", "llama", "default").action == "deleted"
