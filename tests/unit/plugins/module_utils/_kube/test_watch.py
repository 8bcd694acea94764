# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import json
import re
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.gpuops.nim.plugins.module_utils._kube import watch
from ansible_collections.gpuops.nim.plugins.module_utils._kube.auth import connect
from ansible_collections.gpuops.nim.plugins.module_utils._kube.client import Client
from ansible_collections.gpuops.nim.plugins.module_utils._kube.errors import Forbidden, KindMissing, Unauthorized
from ansible_collections.gpuops.nim.plugins.module_utils._kube.watch import Mirror, Query
from ansible_collections.gpuops.nim.tests.unit.fake_apiserver import FakeApiServer

PODS = Query("v1", "Pod", "default")
FORBIDDEN = 'pods is forbidden: User "jane" cannot watch resource "pods" in API group "" in the namespace "default"'


def put(api: FakeApiServer, name: str, **labels: str) -> None:
    metadata = {"name": name, "namespace": "default", "labels": labels or {"n": str(api.version)}}
    api.put({"apiVersion": "v1", "kind": "Pod", "metadata": metadata})


def names(mirror: Mirror, kind: str = "Pod") -> list[str]:
    return [obj["metadata"]["name"] for obj in mirror.objects(kind)]


def until(mirror: Mirror, wanted: list[str], timeout: float = 30) -> float:
    """Seconds until the mirror shows ``wanted``."""
    began = time.monotonic()
    while names(mirror) != wanted:
        left = began + timeout - time.monotonic()
        assert left > 0, f"still {names(mirror)}; {mirror.trouble()}"
        mirror.wait(left)
    return time.monotonic() - began


def test_the_first_wait_ends_when_all_is_listed(client: Client, api: FakeApiServer) -> None:
    put(api, "a")
    api.fault(path="services", hang=0.3)
    began = time.monotonic()
    with Mirror(client, [PODS, Query("v1", "Service", "default")]) as mirror:
        assert mirror.wait(30) is True
        assert time.monotonic() - began >= 0.3
        assert (names(mirror), names(mirror, "Service")) == (["a"], [])
        assert mirror.objects("Pod")[0]["kind"] == "Pod"
        assert mirror.wait(0.1) is False


def test_an_event_wakes_at_once(client: Client, api: FakeApiServer) -> None:
    with Mirror(client, [PODS]) as mirror:
        assert mirror.wait(30)
        time.sleep(0.2)
        for name in ("a", "b"):
            put(api, name)
            assert mirror.wait(30) is True
        assert names(mirror) == ["a", "b"]
        api.remove("Pod", "default", "a")
        assert mirror.wait(30) is True
        assert names(mirror) == ["b"]
        assert len(api.requests) == 2  # one list, one watch


def test_only_what_is_selected_is_seen(client: Client, api: FakeApiServer) -> None:
    put(api, "a", app="x")
    with Mirror(client, [Query("v1", "Pod", "default", labels="app=x")]) as mirror:
        assert mirror.wait(30)
        put(api, "b", app="y")
        put(api, "c", app="x")
        until(mirror, ["a", "c"])


def test_queries_of_one_kind_are_one(client: Client, api: FakeApiServer) -> None:
    put(api, "a", app="x")
    with Mirror(client, [PODS, Query("v1", "Pod", None, fields="metadata.name=a")]) as mirror:
        assert mirror.wait(30)
        assert names(mirror) == ["a"]


def test_changes_are_told_by_group_and_once(client: Client, api: FakeApiServer) -> None:
    def app(obj: dict[str, Any]) -> str:
        return str(obj["metadata"]["labels"]["app"])

    put(api, "a", app="x")
    put(api, "b", app="y")
    with Mirror(client, [PODS], group=app) as mirror:
        assert mirror.wait(30)
        assert mirror.changes() == {"x", "y"}
        put(api, "c", app="x")
        until(mirror, ["a", "b", "c"])
        assert mirror.changes() == {"x"}
        assert [obj["metadata"]["name"] for obj in mirror.objects("Pod", "x")] == ["a", "c"]
        put(api, "c", app="y")  # leaves one group for another
        assert mirror.wait(30)
        assert mirror.changes() == {"x", "y"}
        assert [obj["metadata"]["name"] for obj in mirror.objects("Pod", "x")] == ["a"]
        api.remove("Pod", "default", "b")
        until(mirror, ["a", "c"])
        assert mirror.changes() == {"y"}
        assert [obj["metadata"]["name"] for obj in mirror.objects("Pod", "y")] == ["c"]
        assert mirror.changes() == set()


@pytest.mark.parametrize(
    "fault",
    [{"status": 503}, {"status": 500}, {"status": 408}, {"status": 429}, {"reset": "early"}, {"reset": "body"}],
    ids=str,
)
@pytest.mark.parametrize("on", [False, True], ids=["list", "watch"])
def test_bursts_of_trouble_are_survived(client: Client, api: FakeApiServer, fault: dict[str, Any], on: bool) -> None:
    api.fault(path="pods", watch=on, times=2, **fault)
    with Mirror(client, [PODS]) as mirror:
        assert mirror.wait(30)
        put(api, "a")
        until(mirror, ["a"])


def test_retry_after_is_honoured(client: Client, api: FakeApiServer) -> None:
    api.fault(path="pods", status=429, headers={"Retry-After": "1"})
    began = time.monotonic()
    with Mirror(client, [PODS]) as mirror:
        assert mirror.wait(30)
    assert time.monotonic() - began >= 1


def test_reset_streams_go_on_where_they_were(client: Client, api: FakeApiServer) -> None:
    put(api, "a")
    with Mirror(client, [PODS]) as mirror:
        assert mirror.wait(30)
        for name in ("b", "c"):
            time.sleep(0.1)
            api.cut()
            put(api, name)
            assert mirror.wait(30)
        until(mirror, ["a", "b", "c"])
    assert len([r for r in api.seen("GET", "pods") if not r.is_watch]) == 1


def test_gone_is_listed_anew_and_what_vanished_is_gone(client: Client, api: FakeApiServer) -> None:
    put(api, "a")
    put(api, "b")
    with Mirror(client, [PODS]) as mirror:
        assert mirror.wait(30)
        time.sleep(0.1)
        api.fault(path="pods", watch=True, reset="early", times=1)
        with api._lock:
            api.cut()
            api.remove("Pod", "default", "a")
            put(api, "c")
            api.forget()
            api.version += 1
        until(mirror, ["b", "c"])


def test_an_error_event_410_is_listed_anew(client: Client, api: FakeApiServer) -> None:
    with Mirror(client, [PODS]) as mirror:
        assert mirror.wait(30)
        time.sleep(0.1)
        with api._lock:
            put(api, "a")
            api.version += 1
            api.forget()
        api.cut()
        until(mirror, ["a"])
    assert len([r for r in api.seen("GET", "pods") if not r.is_watch]) == 2


def test_an_unchanged_list_after_trouble_wakes_nobody(client: Client, api: FakeApiServer) -> None:
    put(api, "a")
    with Mirror(client, [PODS]) as mirror:
        assert mirror.wait(30)
        api.forget()
        api.cut()
        assert mirror.wait(1) is False
        assert len([r for r in api.seen("GET", "pods") if not r.is_watch]) <= 2


def test_a_restart_with_another_history(client: Client, api: FakeApiServer) -> None:
    put(api, "a")
    with Mirror(client, [PODS]) as mirror:
        assert mirror.wait(30)
        assert mirror.trouble() is None
        api.stop()
        assert mirror.wait(1) is False
        trouble = mirror.trouble()
        assert trouble is not None
        assert "connection refused" in trouble
        assert re.search(r"has not answered for \d+ s", trouble)
        api.remove("Pod", "default", "a")
        put(api, "z")
        api.version = 50  # restored from a backup: lower than what we have seen
        api.forget()
        api.start()
        until(mirror, ["z"])
        time.sleep(0.2)
        assert mirror.trouble() is None


def test_a_long_outage_does_not_slow_down_what_comes_later(client: Client, api: FakeApiServer) -> None:
    with Mirror(client, [PODS]) as mirror:
        assert mirror.wait(30)
        api.stop()
        time.sleep(2)
        api.start()
        put(api, "a")
        until(mirror, ["a"])
        time.sleep(0.2)
        put(api, "b")  # the stream is there again
        until(mirror, ["a", "b"])
        api.cut()
        put(api, "c")
        assert until(mirror, ["a", "b", "c"]) < 2.5  # the next pause of the outage was 3.2 s


def test_a_half_dead_connection_is_noticed(client: Client, api: FakeApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "WATCH_SECONDS", 1)
    monkeypatch.setattr(watch, "SILENCE_SECONDS", 1.5)
    with Mirror(client, [PODS]) as mirror:
        assert mirror.wait(30)
        time.sleep(0.1)
        api.freeze()
        put(api, "a")
        assert until(mirror, ["a"]) > 1


def test_a_bookmark_from_the_past_means_another_history(
    client: Client, api: FakeApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "WATCH_SECONDS", 1)
    put(api, "a")
    with Mirror(client, [PODS]) as mirror:
        assert mirror.wait(30)
        with api._lock:
            api._objects.pop(("Pod", "default", "a"))
            api._history.clear()
            api.version = 20
        until(mirror, [])


def test_watches_are_renewed_without_listing(
    client: Client, api: FakeApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "WATCH_SECONDS", 1)
    with Mirror(client, [PODS]) as mirror:
        assert mirror.wait(30)
        time.sleep(2.3)
        put(api, "a")
        until(mirror, ["a"])
    lists = [r for r in api.seen("GET", "pods") if not r.is_watch]
    watches = [r for r in api.seen("GET", "pods") if r.is_watch]
    assert (len(lists), len(watches)) == (1, 3)
    assert all(r.query["allowWatchBookmarks"] == "true" and r.query["resourceVersion"] for r in watches)


def test_an_expired_token_is_loaded_again(api: FakeApiServer, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("old")
    config = {
        "clusters": [{"name": "c", "cluster": {"server": api.url}}],
        "users": [{"name": "u", "user": {"tokenFile": str(token)}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    (tmp_path / "kc").write_text(json.dumps(config))
    api.tokens = {"old"}
    with Mirror(connect({"kubeconfig": str(tmp_path / "kc")}), [PODS]) as mirror:
        assert mirror.wait(30)
        for new in ("second", "third"):
            token.write_text(new)
            api.tokens = {new}
            api.cut()
            put(api, new)
            assert mirror.wait(30)
        assert names(mirror) == ["second", "third"]
        api.tokens = set()
        api.cut()
        with pytest.raises(Unauthorized):
            mirror.wait(30)


def test_forbidden_and_not_served_end_the_wait(client: Client, api: FakeApiServer) -> None:
    api.fault(path="pods", status=403, message=FORBIDDEN)
    with Mirror(client, [PODS]) as mirror, pytest.raises(Forbidden, match='verbs: \\["watch"\\]'):
        mirror.wait(30)
    api.served.discard("apps/v1")
    query = Query("apps/v1", "Deployment", "default")
    with Mirror(client, [PODS, query]) as mirror, pytest.raises(KindMissing, match="Deployment"):
        mirror.wait(30)


def test_a_server_that_has_forgotten_its_roles_for_a_moment(
    client: Client, api: FakeApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Mirror(client, [PODS]) as mirror:
        assert mirror.wait(30)
        api.fault(path="pods", status=403, message=FORBIDDEN, times=2)
        api.cut()
        put(api, "a")
        until(mirror, ["a"])
        monkeypatch.setattr(watch, "SETTLE_SECONDS", 0.3)
        api.fault(path="pods", status=403, message=FORBIDDEN, times=99)
        api.cut()
        with pytest.raises(Forbidden):
            mirror.wait(30)


def test_closing_does_not_wait_for_open_streams(client: Client, api: FakeApiServer) -> None:
    mirror = Mirror(client, [PODS, Query("v1", "Service", None), Query("v1", "Event", "default")]).__enter__()
    assert mirror.wait(30)
    time.sleep(0.2)
    began = time.monotonic()
    mirror.close()
    assert time.monotonic() - began < watch.WATCH_SECONDS / 2  # for so long they would stay open
    assert not [t for t in threading.enumerate() if t.name.startswith("watch ")]


def test_closing_does_not_wait_for_a_server_that_says_nothing(client: Client, api: FakeApiServer) -> None:
    api.fault(path="pods", hang=20)
    mirror = Mirror(client, [PODS]).__enter__()
    assert mirror.wait(0.2) is False
    began = time.monotonic()
    mirror.close()
    assert time.monotonic() - began < 15


def test_an_alarm_gets_through_a_wait(client: Client, api: FakeApiServer) -> None:
    class Alarm(Exception):
        pass

    def ring(*_: Any) -> None:
        raise Alarm

    before = signal.signal(signal.SIGALRM, ring)
    try:
        with Mirror(client, [PODS]) as mirror:
            mirror.wait(30)
            signal.setitimer(signal.ITIMER_REAL, 0.2)
            began = time.monotonic()
            with pytest.raises(Alarm):
                mirror.wait(30)
        assert time.monotonic() - began < 20
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_a_fault_of_our_own_ends_the_wait(client: Client, api: FakeApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "list", lambda *_, **__: 1 / 0)
    with Mirror(client, [PODS]) as mirror, pytest.raises(ZeroDivisionError):
        mirror.wait(30)


def test_seconds_of_trouble_follow_the_clock(client: Client, api: FakeApiServer) -> None:
    now = [100.0]
    api.fault(path="pods", status=503, times=999, message="etcd is away")
    with Mirror(client, [PODS], clock=lambda: now[0]) as mirror:
        assert mirror.wait(0.3) is False
        now[0] = 112.0
        assert mirror.trouble() == "the API server has not answered for 12 s: etcd is away (HTTP 503)"
