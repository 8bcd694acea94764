# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import json
import os
import threading
import time
from typing import Any

import pytest

from ansible_collections.gpuops.nim.plugins.module_utils._kube import client as client_module
from ansible_collections.gpuops.nim.plugins.module_utils._kube.auth import connect
from ansible_collections.gpuops.nim.plugins.module_utils._kube.client import Client
from ansible_collections.gpuops.nim.plugins.module_utils._kube.errors import (
    ConfigError,
    Conflict,
    KindMissing,
    KubeError,
    NotFound,
    Unauthorized,
    Unreachable,
)
from ansible_collections.gpuops.nim.tests.unit.fake_apiserver import FakeApiServer


def config_map(name: str = "c", namespace: str = "default", **data: str) -> dict[str, Any]:
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


def test_get_apply_delete(client: Client, api: FakeApiServer) -> None:
    assert client.get("v1", "ConfigMap", "c", "default") is None
    made = client.apply(config_map(a="1"))
    assert made["data"] == {"a": "1"}
    assert client.get("v1", "ConfigMap", "c", "default") == made
    assert client.delete("v1", "ConfigMap", "c", "default", dry_run=True) is True
    assert client.delete("v1", "ConfigMap", "c", "default", uid=made["metadata"]["uid"]) is True
    assert client.delete("v1", "ConfigMap", "c", "default") is False


def test_delete_of_another_object_of_the_name_is_refused(client: Client, api: FakeApiServer) -> None:
    client.apply(config_map())
    with pytest.raises(Conflict):
        client.delete("v1", "ConfigMap", "c", "default", uid="that-of-the-first")


def test_create(client: Client) -> None:
    client.create(config_map())
    with pytest.raises(Conflict, match="already exists"):
        client.create(config_map())


def test_kinds_that_are_not_served_or_not_known(client: Client) -> None:
    with pytest.raises(KindMissing, match=r"ServiceMonitor \(monitoring.coreos.com/v1\)") as stop:
        client.get("monitoring.coreos.com/v1", "ServiceMonitor", "x", "default")
    assert (stop.value.api_version, stop.value.kind) == ("monitoring.coreos.com/v1", "ServiceMonitor")
    with pytest.raises(KindMissing, match=r"Foo \(v1\)"):
        client.get("v1", "Foo", "x", "default")
    with pytest.raises(NotFound, match="nope"):
        client.apply(config_map(namespace="nope"))


def test_lists_come_in_pages_with_kind_filled_in(
    client: Client, api: FakeApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "PAGE", 2)
    for i in range(5):
        api.put({**config_map(f"c{i}"), "metadata": {"name": f"c{i}", "namespace": "default", "labels": {"a": "b"}}})
    api.put(config_map("other"))
    listing = client.list("v1", "ConfigMap", "default", labels="a=b")
    assert [item["metadata"]["name"] for item in listing.items] == [f"c{i}" for i in range(5)]
    assert {(item["apiVersion"], item["kind"]) for item in listing.items} == {("v1", "ConfigMap")}
    assert listing.resource_version == str(api.version)
    assert len(api.seen("GET", "configmaps")) == 3


def test_a_list_whose_pages_expire_is_read_at_once(
    client: Client, api: FakeApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "PAGE", 2)
    for i in range(5):
        api.put(config_map(f"c{i}"))
    first = client.request
    calls = []

    def expire_second(*args: Any, **rest: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            api.fault(path="configmaps", status=410)
        return first(*args, **rest)

    monkeypatch.setattr(client, "request", expire_second)
    assert len(client.list("v1", "ConfigMap", "default").items) == 5


@pytest.mark.parametrize(
    "fault",
    [
        {"status": 503},
        {"status": 500},
        {"status": 429, "headers": {"Retry-After": "0"}},
        {"status": 408},
        {"reset": "early"},
        {"reset": "late"},
        {"reset": "body"},
    ],
    ids=str,
)
def test_idempotent_requests_survive(client: Client, api: FakeApiServer, fault: dict[str, Any]) -> None:
    client.server_version()
    api.fault(times=2, **fault)
    assert client.apply(config_map(a="1"))["data"] == {"a": "1"}
    api.fault(times=2, **fault)
    found = client.get("v1", "ConfigMap", "c", "default")
    assert found is not None
    assert found["data"] == {"a": "1"}


def test_retry_after_is_honoured(client: Client, api: FakeApiServer) -> None:
    api.fault(status=429, headers={"Retry-After": "1"})
    began = time.monotonic()
    client.server_version()
    assert time.monotonic() - began >= 1


@pytest.mark.usefixtures("short_patience")
def test_retries_end(client: Client, api: FakeApiServer) -> None:
    api.fault(status=503, times=99, message="etcd is away")
    with pytest.raises(Unreachable, match="etcd is away"):
        client.server_version()
    assert 1 < len(api.requests) < 99


def test_a_restart_of_the_server_is_survived(client: Client, api: FakeApiServer) -> None:
    client.server_version()
    api.stop()
    threading.Timer(0.7, api.start).start()
    assert client.server_version() == "v1.36.3"


def test_what_may_have_been_done_is_not_done_twice(client: Client, api: FakeApiServer) -> None:
    api.fault(method="POST", reset="late")
    with pytest.raises(Unreachable, match="broke off"):
        client.create(config_map())
    assert len(api.seen("POST")) == 1


def test_a_refused_post_is_sent_again(client: Client, api: FakeApiServer) -> None:
    api.fault(method="POST", status=429)
    client.create(config_map())
    assert len(api.seen("POST")) == 2


def test_retry_can_be_switched_off(client: Client, api: FakeApiServer) -> None:
    api.fault(status=503)
    with pytest.raises(Unreachable):
        client.request("GET", "/version", retry=False)
    assert len(api.requests) == 1


def test_lost_races_of_an_apply_are_run_again(client: Client, api: FakeApiServer) -> None:
    api.fault(method="PATCH", status=409, message="Operation cannot be fulfilled", times=2)
    assert client.apply(config_map(a="1"))["data"] == {"a": "1"}


def test_an_expired_token_is_loaded_again_once(api: FakeApiServer, tmp_path: Any) -> None:
    token, kubeconfig = tmp_path / "token", tmp_path / "config"
    token.write_text("old\n")
    kubeconfig.write_text(
        json.dumps(
            {
                "clusters": [{"name": "c", "cluster": {"server": api.url}}],
                "users": [{"name": "u", "user": {"tokenFile": str(token)}}],
                "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
                "current-context": "x",
            }
        )
    )
    api.tokens = {"old"}
    client = connect({"kubeconfig": str(kubeconfig)})
    client.server_version()
    api.tokens = {"new"}
    with pytest.raises(Unauthorized, match=r"kubeconfig .*config") as stop:
        client.server_version()
    assert "old" not in str(stop.value)
    token.write_text("new\n")
    before = len(api.requests)
    client.server_version()
    client.server_version()
    assert len(api.requests) == before + 3  # refused, again with the new token, and the next one right at once


def test_a_services_own_401_and_404_are_its_own(client: Client, api: FakeApiServer) -> None:
    path = "/api/v1/namespaces/default/services/http:x:80/proxy/v1/models"
    api.fault(status=401, body=b'{"detail": "who are you"}')
    answer = client.request("GET", path, raise_for=False)
    assert (answer.status, answer.json()) == (401, {"detail": "who are you"})
    assert len(api.requests) == 1
    api.fault(status=404, body=b'{"detail": "no model"}')
    with pytest.raises(NotFound, match="no model"):
        client.request("GET", path)


def test_streams_come_line_by_line(client: Client, api: FakeApiServer) -> None:
    api.put(config_map(a="1"))
    query = {"watch": "true", "timeoutSeconds": "30", "resourceVersion": "0"}
    stream = client.request("GET", "/api/v1/configmaps", query=query, stream=True)
    lines = stream.lines()
    assert json.loads(next(lines))["object"]["data"] == {"a": "1"}
    began = time.monotonic()
    api.put(config_map("d", a="2"))
    assert json.loads(next(lines))["object"]["data"] == {"a": "2"}
    assert time.monotonic() - began < 20  # the stream lasts 30 s
    api.cut()
    with pytest.raises(Unreachable):
        next(lines)
    stream.close()


def test_a_broken_json_answer_blames_the_address(client: Client, api: FakeApiServer) -> None:
    api.fault(status=200, body=b"<html>Log in</html>", headers={"Content-Type": "text/html"})
    with pytest.raises(ConfigError, match="text/html"):
        client.server_version()


def test_warnings_of_the_server_are_collected(client: Client, api: FakeApiServer) -> None:
    api.fault(path="", reset="none", headers={"Warning": '299 - "would violate \\"x\\"", 299 - "old API"'})
    said: list[str] = []
    client.apply(config_map(), warnings=said)
    assert said == ['would violate "x"', "old API"]


def test_works_on_in_a_forked_process(client: Client, api: FakeApiServer) -> None:
    client.server_version()
    child = os.fork()
    if not child:
        try:
            os._exit(0 if client.server_version() == "v1.36.3" else 1)
        except BaseException:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    client.server_version()
    ours, its, again = (request.port for request in api.requests)
    assert ours == again != its


def test_nothing_of_a_client_shows_its_token(client: Client) -> None:
    shown = f"{client!r} {client._connection!r} {vars(client)}"
    assert "nobody-may-see" not in shown


def test_errors_know_their_status(client: Client, api: FakeApiServer) -> None:
    api.fault(status=418, message="I'm a teapot")
    with pytest.raises(KubeError, match="teapot") as stop:
        client.server_version()
    assert stop.value.status == 418
