# SPDX-License-Identifier: GPL-3.0-or-later
"""What users see of nim_secret, against an API server on loopback."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ansible_collections.gpuops.nim.plugins.modules import nim_secret
from ansible_collections.gpuops.nim.tests.unit import fake_apiserver
from ansible_collections.gpuops.nim.tests.unit.fake_apiserver import FakeApiServer

KEY = "nvapi-unit-first-0123456789abcdefghijklmnop"
OTHER = "nvapi-unit-other-0123456789abcdefghijklmnop"
NOON, ONE = "2026-01-01T12:00:00Z", "2026-01-01T13:00:00Z"
Run = Callable[..., dict[str, Any]]


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeApiServer]:
    for name in ("NGC_API_KEY", "HF_TOKEN", "K8S_AUTH_KUBECONFIG", "KUBECONFIG"):
        monkeypatch.delenv(name, raising=False)
    with FakeApiServer() as server:
        yield server


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The server's time, for managedFields; every write sets all entries to it."""
    now = [NOON]

    def managed(owners: dict[tuple[str, str], set[tuple[str, ...]]]) -> list[dict[str, Any]]:
        return [
            {
                "manager": name,
                "operation": operation,
                "time": now[0],
                "fieldsV1": {"f:data": {f"f:{leaf[1]}": {} for leaf in leaves if leaf[0] == "data"}},
            }
            for (name, operation), leaves in owners.items()
            if leaves
        ]

    monkeypatch.setattr(fake_apiserver, "_managed", managed)
    return now


@pytest.fixture
def run(run_module: Any, api: FakeApiServer) -> Run:
    def run(**options: Any) -> dict[str, Any]:
        given = {"host": api.url, "api_key": "token-of-the-tests", "ngc_api_key": KEY, **options}
        _, result = run_module(nim_secret.main, **{name: value for name, value in given.items() if value is not None})
        out = json.dumps(result)
        for secret in (KEY, OTHER, *(base64.b64encode(key.encode()).decode()[:-4] for key in (KEY, OTHER))):
            assert secret not in out
        return result

    return run


def data(api: FakeApiServer, name: str, namespace: str = "default") -> dict[str, str]:
    secret = api.get("Secret", namespace, name)
    assert secret
    return {key: base64.b64decode(value).decode() for key, value in secret["data"].items()}


def auths(api: FakeApiServer, namespace: str = "default") -> dict[str, dict[str, str]]:
    return json.loads(data(api, "ngc-secret", namespace)[".dockerconfigjson"])["auths"]


def entry(result: dict[str, Any], kind: str) -> dict[str, Any]:
    return next(one for one in result["secrets"] if one["kind"] == kind)


def pod(name: str, started: str, env: list[dict] | None = None, env_from: list[dict] | None = None) -> dict[str, Any]:
    container = {"name": "kserve-container", "env": env or [], "envFrom": env_from or []}
    status = {"containerStatuses": [{"name": "kserve-container", "state": {"running": {"startedAt": started}}}]}
    meta = {"name": name, "namespace": "default"}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": {"containers": [container]}, "status": status}


KEY_FROM_SECRET = [
    {"name": "NGC_API_KEY", "valueFrom": {"secretKeyRef": {"name": "nvidia-nim-secrets", "key": "NGC_API_KEY"}}}
]


def test_both_secrets_are_what_kubelet_and_nim_want(run: Run, api: FakeApiServer) -> None:
    result = run(ngc_api_key=f"  {KEY}\r\n", hf_token="hf_0123456789abcdefghijklmnop")
    assert result["changed"] is True
    assert [(one["kind"], one["name"], one["action"]) for one in result["secrets"]] == [
        ("pull", "ngc-secret", "created"),
        ("runtime", "nvidia-nim-secrets", "created"),
    ]
    assert data(api, "nvidia-nim-secrets") == {"NGC_API_KEY": KEY, "HF_TOKEN": "hf_0123456789abcdefghijklmnop"}
    login = auths(api)["nvcr.io"]
    assert (login["username"], login["password"]) == ("$oauthtoken", KEY)
    assert base64.b64decode(login["auth"]).decode() == f"$oauthtoken:{KEY}"
    assert api.get("Secret", "default", "ngc-secret")["type"] == "kubernetes.io/dockerconfigjson"


def test_a_second_run_writes_nothing(run: Run, api: FakeApiServer) -> None:
    first = run()
    writes = len(api.writes)
    second = run()
    assert second["changed"] is False
    assert len(api.writes) == writes
    assert entry(second, "runtime")["fingerprint"] == entry(first, "runtime")["fingerprint"]


def test_fingerprints_tell_keys_apart_and_are_equal_for_equal_keys(run: Run) -> None:
    first, second, back = run(), run(ngc_api_key=OTHER), run()
    prints = [entry(result, "runtime")["fingerprint"] for result in (first, second, back)]
    assert len(prints[0]) == 12
    assert prints[0] == prints[2] != prints[1]
    assert entry(first, "pull")["fingerprint"] == prints[0]
    assert second["changed"] is True


def test_another_cluster_has_another_fingerprint(run: Run, api: FakeApiServer) -> None:
    first = run()
    api.remove("Secret", "default", "ngc-secret")
    api.remove("Secret", "default", "nvidia-nim-secrets")
    assert entry(run(), "runtime")["fingerprint"] != entry(first, "runtime")["fingerprint"]


def test_a_lost_secret_comes_back_with_the_salt_of_the_other(run: Run, api: FakeApiServer) -> None:
    first = run()
    api.remove("Secret", "default", "ngc-secret")
    again = run()
    assert [one["action"] for one in again["secrets"]] == ["created", "unchanged"]
    assert entry(again, "pull")["fingerprint"] == entry(first, "pull")["fingerprint"]


def test_each_secret_keeps_its_own_salt(run: Run) -> None:
    run(pull_secret="pull-1", runtime_secret="runtime-1")
    run(pull_secret="pull-2", runtime_secret="runtime-2")
    mixed = run(pull_secret="pull-1", runtime_secret="runtime-2")
    assert mixed["changed"] is False
    assert len({one["fingerprint"] for one in mixed["secrets"]}) == 2


def test_mirrors_have_their_own_login(run: Run, api: FakeApiServer) -> None:
    mirror = {"host": "mirror.example.com:5000", "username": "puller", "password": "mirror-pass-1\n"}
    result = run(registries=[{"host": "nvcr.io"}, mirror])
    assert auths(api)["mirror.example.com:5000"]["password"] == "mirror-pass-1"
    assert auths(api)["nvcr.io"]["password"] == KEY
    assert set(entry(result, "pull")["fingerprints"]) == {"nvcr.io", "mirror.example.com:5000"}
    assert "mirror-pass-1" not in json.dumps(result)


def test_an_empty_password_does_not_send_the_key_to_a_mirror(run: Run, api: FakeApiServer) -> None:
    result = run(registries=[{"host": "mirror.example.com", "password": ""}])
    assert "registries[0].password" in result["msg"]
    assert api.requests == []


@pytest.mark.parametrize("key", [None, "", "<your key>", "nvapi-short"])
def test_a_key_that_is_none_is_refused_before_anything_is_sent(run: Run, api: FakeApiServer, key: str | None) -> None:
    result = run(ngc_api_key=key)
    assert result["failed"] is True
    assert "ngc_api_key" in result["msg"]
    assert api.requests == []


def test_the_key_may_come_from_the_environment(run: Run, api: FakeApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NGC_API_KEY", OTHER)
    run(ngc_api_key=None)
    assert data(api, "nvidia-nim-secrets")["NGC_API_KEY"] == OTHER


def test_several_namespaces_in_one_task(run: Run, api: FakeApiServer) -> None:
    result = run(namespaces=["one", "two", "one"], create_namespace=True)
    assert [(one["namespace"], one["kind"]) for one in result["secrets"]] == [
        ("one", "pull"), ("one", "runtime"), ("two", "pull"), ("two", "runtime"),
    ]  # fmt: skip
    assert len({one["fingerprint"] for one in result["secrets"]}) == 1
    assert api.get("Namespace", "", "two")["metadata"]["labels"] == {"app.kubernetes.io/managed-by": "gpuops.nim"}


def test_an_existing_namespace_is_left_as_it_is(run: Run, api: FakeApiServer) -> None:
    run(create_namespace=True)
    assert "labels" not in api.get("Namespace", "", "default")["metadata"]


@pytest.mark.parametrize("check", [False, True])
def test_a_missing_namespace_doesnt_stop_the_others(run: Run, api: FakeApiServer, check: bool) -> None:
    result = run(namespaces=["nowhere", "default"], check=check)
    assert result["failed"] is True
    assert "namespace nowhere" in result["msg"]
    assert "create_namespace: true" in result["msg"]
    assert [(one["namespace"], one["action"]) for one in result["secrets"]] == [("default", "created")] * 2
    assert result["changed"] is True
    assert bool(api.get("Secret", "default", "ngc-secret")) is not check


def test_check_mode_writes_nothing_and_says_what_would_be(run: Run, api: FakeApiServer) -> None:
    result = run(namespaces=["new"], create_namespace=True, check=True)
    assert result["changed"] is True
    assert [one["action"] for one in result["secrets"]] == ["created", "created"]
    assert api.writes == []
    run()
    assert run(check=True)["changed"] is False


def test_the_diff_shows_which_value_changed_and_no_value(run: Run, api: FakeApiServer) -> None:
    run()
    result = run(ngc_api_key=OTHER, check=True, diff=True)
    shown = {one["after_header"]: one for one in result["diff"]}
    runtime = shown["Secret default/nvidia-nim-secrets"]
    before, after = runtime["before"]["data"]["NGC_API_KEY"], runtime["after"]["data"]["NGC_API_KEY"]
    assert before.startswith("<hidden> ")
    assert after == f"<hidden> {entry(result, 'runtime')['fingerprint']}"
    assert before != after
    assert set(shown["Secret default/ngc-secret"]["after"]["data"]) == {"nvcr.io"}
    salt = api.get("Secret", "default", "ngc-secret")["metadata"]["annotations"]["gpuops.nim/salt"]
    assert salt not in json.dumps(result)


def test_a_foreign_secret_is_refused_and_adopt_takes_it_over(run: Run, api: FakeApiServer) -> None:
    theirs = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "ngc-secret", "namespace": "default"}}
    api.put({**theirs, "type": "kubernetes.io/dockerconfigjson", "data": {".dockerconfigjson": "e30="}}, "kubectl")
    for state in ("present", "absent"):
        result = run(state=state)
        assert "ngc-secret" in result["msg"]
        assert "kubectl" in result["msg"]
        assert "adopt: true" in result["msg"]
    assert data(api, "ngc-secret") == {".dockerconfigjson": "{}"}
    assert entry(run(adopt=True), "pull")["action"] == "changed"
    assert "nvcr.io" in auths(api)


def test_two_secrets_need_two_names(run: Run, api: FakeApiServer) -> None:
    assert "different names" in run(pull_secret="one", runtime_secret="one")["msg"]
    assert api.requests == []


def test_absent(run: Run, api: FakeApiServer) -> None:
    run()
    writes = len(api.writes)
    assert run(state="absent", check=True)["changed"] is True
    assert len(api.writes) == writes
    first, second = run(state="absent", ngc_api_key=None), run(state="absent")
    assert [one["action"] for one in first["secrets"]] == ["deleted", "deleted"]
    assert [one["action"] for one in second["secrets"]] == ["absent", "absent"]
    assert second["changed"] is False
    assert api.get("Secret", "default", "ngc-secret") is None


def isvc(name: str, **predictor: Any) -> dict[str, Any]:
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"predictor": {"containers": [{"name": "kserve-container"}], **predictor}},
    }


def test_what_goes_with_its_services_stays_where_others_use_it(run: Run, api: FakeApiServer) -> None:
    run()
    pull = {"imagePullSecrets": [{"name": "ngc-secret"}]}
    api.put(isvc("mine", **pull))
    mine = pod("mine-1", NOON, KEY_FROM_SECRET)
    mine["metadata"]["labels"] = {"serving.kserve.io/inferenceservice": "mine"}
    api.put(mine)

    def absent(**options: Any) -> tuple[list[str], str]:
        result = run(state="absent", removed_with=["default/mine"], **options)
        return [one["action"] for one in result["secrets"]], str(result.get("warnings", ""))

    assert absent(check=True) == (["deleted", "deleted"], "")  # as if its services were gone
    api.put(isvc("theirs", **pull))
    api.put(pod("batch", NOON, KEY_FROM_SECRET))
    actions, warnings = absent()
    assert actions == ["unchanged", "unchanged"]
    assert "Secret default/ngc-secret stays, used by default/theirs." in warnings
    assert "Secret default/nvidia-nim-secrets stays, used by pod batch." in warnings
    api.remove("Pod", "default", "batch")
    assert absent()[0] == ["unchanged", "deleted"]
    assert [one["action"] for one in run(state="absent")["secrets"]] == ["deleted", "absent"]


def test_pods_that_still_run_with_the_old_key_are_named(run: Run, api: FakeApiServer, clock: list[str]) -> None:
    run()
    api.put(pod("before", "2026-01-01T12:30:00Z", KEY_FROM_SECRET))
    api.put(pod("before-all", "2026-01-01T12:30:00Z", env_from=[{"secretRef": {"name": "nvidia-nim-secrets"}}]))
    api.put(pod("same-second", ONE, KEY_FROM_SECRET))
    api.put(pod("after", "2026-01-01T13:00:01Z", KEY_FROM_SECRET))
    api.put(pod("unrelated", "2026-01-01T10:00:00Z"))
    waiting = pod("waiting", NOON, KEY_FROM_SECRET)
    waiting["status"]["containerStatuses"][0]["state"] = {"waiting": {"reason": "ImagePullBackOff"}}
    api.put(waiting)
    assert run()["pods_with_old_key"] == []
    clock[0] = ONE
    for options in ({"check": True}, {}):
        result = run(ngc_api_key=OTHER, **options)
        assert result["pods_with_old_key"] == ["default/before", "default/before-all"]
        assert entry(result, "runtime")["pods_with_old_key"] == ["before", "before-all"]
        assert result["pods_unknown"] == ["default/same-second"]
    # still true in a run that changes nothing, until they are restarted
    again = run(ngc_api_key=OTHER)
    assert again["changed"] is False
    assert again["pods_with_old_key"] == ["default/before", "default/before-all"]


def test_without_times_nobody_knows(run: Run, api: FakeApiServer) -> None:
    api.put(pod("p", NOON, KEY_FROM_SECRET))
    result = run()
    assert (result["pods_with_old_key"], result["pods_unknown"]) == ([], ["default/p"])


def test_pods_that_may_not_be_listed_are_unknown_and_no_failure(run: Run, api: FakeApiServer) -> None:
    said = 'pods is forbidden: User "u" cannot list resource "pods" in API group "" in the namespace "default"'
    api.fault(method="GET", path="/pods$", status=403, message=said)
    result = run()
    assert "failed" not in result
    assert result["pods_unknown"] == ["default/*"]
    assert 'verbs: ["list"]' in json.dumps(result["warnings"]).replace('\\"', '"')


def test_a_dead_cluster_is_not_asked_for_every_namespace(
    run: Run, api: FakeApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ansible_collections.gpuops.nim.plugins.module_utils._kube import client

    monkeypatch.setattr(client, "FIRST_PATIENCE", 0.0)
    api.stop()
    result = run(namespaces=["one", "two"])
    assert result["msg"].count("can't be reached") == 1
