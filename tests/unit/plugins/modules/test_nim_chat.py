# SPDX-License-Identifier: GPL-3.0-or-later
"""How nim_chat finds its way to a service of a cluster. What it does there: module_utils/_ops/test_chat.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ansible_collections.gpuops.nim.plugins.module_utils._ops import chat, door
from ansible_collections.gpuops.nim.plugins.modules import nim_chat
from ansible_collections.gpuops.nim.tests.unit.fake_apiserver import FakeApiServer, Request

PROXY = "/api/v1/namespaces/nim/services/http:llama-predictor:80/proxy"
MODELS = {"object": "list", "data": [{"id": "meta/llama3-8b-instruct"}]}
ANSWER = {"choices": [{"message": {"content": "Paris."}, "finish_reason": "stop"}]}


class Cluster(FakeApiServer):
    """Also does what a service proxy does, for one service with a model behind it."""

    def obey(self, request: Request) -> tuple[int, Any]:
        if request.path.startswith(PROXY):
            return 200, MODELS if request.method == "GET" else ANSWER
        return super().obey(request)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    monkeypatch.setattr(chat, "SETTLE", 0.0)
    monkeypatch.delenv("K8S_AUTH_KUBECONFIG", raising=False)
    with Cluster() as made:
        made.served.add("networking.k8s.io/v1")
        yield made


@pytest.fixture
def ask(run_module: Any, cluster: Cluster) -> Callable[..., dict[str, Any]]:
    def ask(**options: Any) -> dict[str, Any]:
        auth = {"host": cluster.url, "api_key": "token-of-the-tests"}
        given = {"name": "llama", "namespace": "nim", "stream": False, "timeout": 5, **auth, **options}
        return run_module(nim_chat.main, **given)[1]

    return ask


def service(cluster: Cluster, url: str = "http://llama-nim.example.com", point: dict[str, str] | None = None) -> None:
    meta = {"name": "llama", "namespace": "nim"}
    isvc = {"apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService", "metadata": dict(meta)}
    cluster.put({**isvc, "spec": {}, "status": {"url": url} if url else {}})
    if point:
        ingress = {"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": dict(meta), "spec": {}}
        cluster.put({**ingress, "status": {"loadBalancer": {"ingress": [point]}}})


def test_through_the_api_server(ask: Any, cluster: Cluster) -> None:
    service(cluster)
    result = ask(via="apiserver")
    assert (result["answer"], result["via"], result["host"]) == ("Paris.", "apiserver", None)
    assert result["url"] == f"{PROXY}/v1/chat/completions"
    assert [r.path for r in cluster.seen(path="proxy")] == [f"{PROXY}/v1/models", f"{PROXY}/v1/chat/completions"]


def test_without_an_ingress_the_api_server_is_the_way(ask: Any, cluster: Cluster) -> None:
    service(cluster)
    assert ask()["via"] == "apiserver"


def test_an_address_inside_the_cluster_is_no_way_in(ask: Any, cluster: Cluster) -> None:
    service(cluster, "http://llama-predictor.nim.svc.cluster.local", {"ip": "127.0.0.1"})
    assert ask()["via"] == "apiserver"


def test_where_only_the_ingress_will_do_there_must_be_one(ask: Any, cluster: Cluster) -> None:
    service(cluster)
    result = ask(via="ingress")
    assert "no address outside the cluster" in result["msg"]
    assert "via: apiserver" in result["msg"]


@pytest.mark.parametrize("point", [{"ip": "127.0.0.1"}, {"hostname": "127.0.0.1"}])
def test_the_ingress_says_its_address(ask: Any, cluster: Cluster, point: dict[str, str]) -> None:
    service(cluster, "http://llama-nim.example.com:1", point)
    # nothing listens there; the way is what counts
    assert "http://127.0.0.1" in ask()["msg"]
    assert cluster.seen(path="proxy") == []


def endpoint(cluster: Cluster, tls: bool = True, owner: str = "llama") -> None:
    meta = {"name": "llama-endpoint", "namespace": "nim", "labels": {"gpuops.nim/service": owner}}
    spec = {"rules": [{"host": "models.example.org"}], **({"tls": [{"secretName": "x"}]} if tls else {})}
    status = {"loadBalancer": {"ingress": [{"ip": "127.0.0.1"}]}}
    ingress = {"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": meta}
    cluster.put({**ingress, "spec": spec, "status": status})


@pytest.mark.parametrize(
    ("tls", "options", "where"),
    [
        (True, {"address": "127.0.0.1:1"}, "https://127.0.0.1:1"),
        (True, {}, "https://127.0.0.1"),
        (True, {"address": "http://127.0.0.1:1"}, "http://127.0.0.1:1"),
        (False, {"address": "127.0.0.1:1"}, "http://127.0.0.1:1"),
    ],
)
@pytest.mark.parametrize("url", ["http://llama-nim.example.com", "http://llama-predictor.nim.svc.cluster.local"])
def test_an_endpoint_of_the_service_goes_before_kserves_own_host(
    ask: Any, cluster: Cluster, monkeypatch: pytest.MonkeyPatch, tls: bool, options: Any, where: str, url: str
) -> None:
    made: list[door.IngressDoor] = []
    monkeypatch.setattr(door.IngressDoor, "send", lambda self, *args: made.append(self) or 1 / 0)
    service(cluster, url, {"ip": "127.0.0.2"})
    endpoint(cluster, tls)
    with pytest.raises(ZeroDivisionError):
        ask(**options)
    assert (made[0].base, made[0].host) == (where, "models.example.org")


def test_kserves_ingress_of_a_service_with_such_a_name_is_not_the_endpoint(ask: Any, cluster: Cluster) -> None:
    service(cluster)
    endpoint(cluster, owner="llama-endpoint")
    assert ask()["via"] == "apiserver"


def test_the_options_need_no_cluster_when_they_say_it_all(ask: Any, cluster: Cluster) -> None:
    assert "refused" in ask(address="127.0.0.1:1", host_header="x.example.com")["msg"]
    assert cluster.requests == []


@pytest.mark.parametrize(
    ("prepare", "options", "words"),
    [
        (lambda c: None, {}, ["no InferenceService llama in namespace nim"]),
        (lambda c: service(c, url=""), {}, ["no URL yet", "nim_kserve"]),
        (lambda c: c.served.discard("serving.kserve.io/v1beta1"), {}, ["doesn't serve InferenceService"]),
        (service, {"name": None, "address": "x", "via": "apiserver"}, ["needs the `name`"]),
    ],
)
def test_no_way_at_all(ask: Any, cluster: Cluster, prepare: Any, options: dict[str, Any], words: list[str]) -> None:
    prepare(cluster)
    result = ask(**options)
    assert result["failed"] is True
    for word in words:
        assert word in result["msg"]


FORBIDDEN = 'services "http:llama-predictor:80" is forbidden: User "u" cannot get resource "services/proxy" in API group "" in the namespace "nim"'  # noqa: E501


@pytest.mark.parametrize(
    ("status", "message", "words"),
    [
        (
            503,
            'no endpoints available for service "llama-predictor"',
            ["reaches no ready pod", "kubectl get pods -n nim"],
        ),
        (403, FORBIDDEN, ['resources: ["services/proxy"], verbs: ["get"]']),
        (404, 'services "http:llama-predictor:80" not found', ["There is no service nim/llama-predictor"]),
    ],
)
def test_the_api_servers_own_refusals(ask: Any, cluster: Cluster, status: int, message: str, words: list[str]) -> None:
    service(cluster)
    cluster.fault(path="/proxy/", times=9, status=status, message=message)
    result = ask(via="apiserver")
    for word in words:
        assert word in result["msg"]


def test_a_question_is_not_asked_twice(ask: Any, cluster: Cluster) -> None:
    service(cluster)
    cluster.fault(method="POST", path="/proxy/", times=9, reset="late")
    assert "broke off" in ask(via="apiserver")["msg"]
    assert len(cluster.seen("POST", "proxy")) == 1


def test_silence_behind_the_api_server_ends_with_the_timeout(ask: Any, cluster: Cluster) -> None:
    service(cluster)
    cluster.fault(method="POST", path="/proxy/", times=9, hang=2.5)
    assert "no answer within 1 s" in ask(via="apiserver", timeout=1)["msg"]
