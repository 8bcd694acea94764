# SPDX-License-Identifier: GPL-3.0-or-later
"""What users see of gpu_node_drain where budgets refuse, servers fail and others have cordoned the node."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ansible_collections.gpuops.nim.plugins.module_utils._ops import drain
from ansible_collections.gpuops.nim.plugins.modules import gpu_node_drain
from ansible_collections.gpuops.nim.tests.unit.fake_apiserver import (
    FakeApiServer,
    Object,
    Refusal,
    Request,
    status_document,
)

Run = Callable[..., dict[str, Any]]
GPU = {"nvidia.com/gpu": "1"}
BUDGET = "Cannot evict pod as it would violate the pod's disruption budget."
MARK = "gpuops.nim/cordoned"


class Cluster(FakeApiServer):
    """Also knows evictions: a pod that is evicted is gone at once, or only ``ending`` until the test removes it."""

    ending = False

    def obey(self, request: Request) -> tuple[int, Object]:
        if not request.path.endswith("/eviction"):
            return super().obey(request)
        eviction = json.loads(request.body)
        namespace, name = eviction["metadata"]["namespace"], eviction["metadata"]["name"]
        pod = self.get("Pod", namespace, name)
        if pod is None:
            raise Refusal(404, f'pods "{name}" not found', "NotFound", name=name, kind="pods")
        if eviction["deleteOptions"].get("preconditions") != {"uid": pod["metadata"]["uid"]}:
            raise Refusal(400, "the tests want it to be this very pod")
        if self.ending:
            self.edit("Pod", namespace, name, "metadata.deletionTimestamp", "2026-01-01T00:00:00Z")
        else:
            self.remove("Pod", namespace, name)
        return 201, status_document(201, "")

    def run(self, name: str, resources: dict[str, str] | None = None, owner: str = "ReplicaSet", **more: Any) -> None:
        references = [{"kind": owner, "name": f"{name}-owner", "controller": True}] if owner else []
        metadata = {"name": name, "namespace": "nim", "ownerReferences": references, **more.pop("metadata", {})}
        containers = [{"name": "c", "resources": {"limits": resources or {}}}]
        spec = {"nodeName": more.pop("node", "gpu-1"), "containers": containers, **more}
        self.put({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})

    @property
    def pods(self) -> list[str]:
        return sorted(name for kind, _, name in self._objects if kind == "Pod")

    @property
    def node(self) -> tuple[bool, bool]:
        """Whether it is cordoned, and whether it has our mark."""
        node = self.get("Node", "", "gpu-1")
        assert node
        return bool(node["spec"].get("unschedulable")), MARK in (node["metadata"].get("annotations") or {})

    @property
    def evictions(self) -> int:
        return len(self.seen("POST", "/eviction$"))


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    for name in ("K8S_AUTH_KUBECONFIG", "KUBECONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(drain, "AGAIN", 0.2)
    with Cluster() as server:
        server.put({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "nim"}})
        server.put({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "gpu-1"}, "spec": {}})
        yield server


@pytest.fixture
def run(run_module: Any, api: Cluster) -> Run:
    def run(node: str = "gpu-1", fails: bool = False, **options: Any) -> dict[str, Any]:
        code, result = run_module(gpu_node_drain.main, host=api.url, api_key="token", node=node, **options)
        assert bool(code) is fails, result
        return result

    return run


def test_without_permission_it_only_says_who_is_there(run: Run, api: Cluster) -> None:
    api.run("llama", GPU)
    api.run("shared", {"aliyun.com/gpu-mem": "8"})
    api.run("slice", {"nvidia.com/mig-1g.10gb": "1"})
    api.run("claims", resourceClaims=[{"name": "gpu"}])
    api.run("web", {"cpu": "1"})
    api.run("elsewhere", GPU, node="gpu-2")
    result = run()
    assert result["gpu_pods"] == result["remaining"] == ["nim/claims", "nim/llama", "nim/shared", "nim/slice"]
    assert not result["changed"]
    assert not api.writes
    assert api.node == (False, False)


def test_it_drains_and_gives_back(run: Run, api: Cluster) -> None:
    api.run("llama", GPU)
    api.run("web")
    api.run("plugin", owner="DaemonSet")
    checked = run(drain=True, check=True, diff=True)
    assert checked["changed"]
    assert checked["evicted"] == ["nim/llama"]
    assert api.pods == ["llama", "plugin", "web"]
    assert api.node == (False, False)

    done = run(drain=True, diff=True)
    assert done["changed"]
    assert (done["evicted"], done["remaining"]) == (["nim/llama"], [])
    assert done["cordoned"]
    assert done["cordoned_by_us"]
    assert [one["after_header"] for one in done["diff"]] == ["Node gpu-1", "pods on gpu-1"]
    assert api.pods == ["plugin", "web"]
    assert api.node == (True, True)

    again = run(drain=True)
    assert not again["changed"]

    back = run(state="restored")
    assert back["changed"]
    assert api.node == (False, False)
    assert not run(state="restored")["changed"]


def test_all_pods_but_those_that_would_come_back(run: Run, api: Cluster) -> None:
    api.run("web")
    api.run("plugin", owner="DaemonSet")
    api.run("static", owner="Node", metadata={"annotations": {"kubernetes.io/config.mirror": "x"}})
    assert run(drain=True, pods="all")["evicted"] == ["nim/web"]
    assert api.pods == ["plugin", "static"]


def test_a_node_that_others_cordoned_stays_theirs(run: Run, api: Cluster) -> None:
    api.edit("Node", "", "gpu-1", "spec.unschedulable", True)
    api.run("llama", GPU)
    done = run(drain=True)
    assert done["evicted"] == ["nim/llama"]
    assert not done["cordoned_by_us"]
    assert not run(state="restored")["changed"]
    assert api.node == (True, False)


def test_a_node_that_is_not_there_is_no_error(run: Run, api: Cluster) -> None:
    assert run(node="new", drain=True)["exists"] is False
    assert not run(node="new", state="restored")["changed"]


def test_what_would_not_come_back_is_refused_before_anything(run: Run, api: Cluster) -> None:
    api.run("bare", GPU, owner="")
    api.run("llama", GPU)
    result = run(drain=True, fails=True)
    assert "nim/bare" in result["msg"]
    assert "force: true" in result["msg"]
    assert api.node == (False, False)
    assert api.evictions == 0
    assert run(drain=True, force=True)["evicted"] == ["nim/bare", "nim/llama"]


def test_a_daemon_set_on_gpus_has_to_be_taken_away_first(run: Run, api: Cluster) -> None:
    api.run("burner", GPU, owner="DaemonSet")
    assert "nim/burner belongs to DaemonSet burner-owner" in run(drain=True, force=True, fails=True)["msg"]
    assert api.node == (False, False)


def test_a_budget_is_asked_until_it_allows(run: Run, api: Cluster) -> None:
    api.run("llama", GPU)
    api.fault(method="POST", path="/eviction$", status=429, message=BUDGET, times=3)
    assert run(drain=True, timeout=10)["evicted"] == ["nim/llama"]
    assert api.evictions == 4


def test_a_budget_that_never_allows_is_named_and_a_later_run_goes_on(run: Run, api: Cluster) -> None:
    api.run("llama", GPU)
    api.run("qwen", GPU)
    fault = api.fault(method="POST", path="/llama/eviction$", status=429, message=BUDGET, times=99)
    result = run(drain=True, timeout=1, fails=True)
    assert "nim/llama (cannot evict pod as it would violate the pod's disruption budget)" in result["msg"]
    assert (result["evicted"], result["remaining"]) == (["nim/qwen"], ["nim/llama"])
    assert result["changed"]
    assert api.node == (True, True)
    fault.times = 0
    assert run(drain=True)["evicted"] == ["nim/llama"]
    run(state="restored")
    assert api.node == (False, False)


def test_it_waits_until_an_evicted_pod_has_ended(run: Run, api: Cluster) -> None:
    api.ending = True
    api.run("llama", GPU)
    timer = threading.Timer(1, api.remove, ("Pod", "nim", "llama"))
    timer.start()
    begun = time.monotonic()
    assert run(drain=True, timeout=20)["remaining"] == []
    assert time.monotonic() - begun >= 0.9
    assert api.evictions == 1

    api.run("slow", GPU)
    assert "nim/slow (is ending)" in run(drain=True, timeout=1, fails=True)["msg"]


def test_a_pod_that_came_before_the_cordon_goes_too(run: Run, api: Cluster) -> None:
    """The scheduler had bound it already when we looked."""
    api.ending = True
    api.run("llama", GPU)

    def late() -> None:
        api.run("late", GPU)
        api.ending = False
        api.remove("Pod", "nim", "llama")

    timer = threading.Timer(0.5, late)
    timer.start()
    assert run(drain=True, timeout=20)["evicted"] == ["nim/llama", "nim/late"]


def test_an_api_server_that_restarts_in_between_is_waited_for(run: Run, api: Cluster) -> None:
    api.run("llama", GPU)
    api.fault(method="POST", path="/eviction$", reset="early", times=2)
    api.fault(method="POST", path="/eviction$", status=503, times=1)
    assert run(drain=True, timeout=20)["remaining"] == []
    assert api.pods == []


def test_an_eviction_whose_answer_was_lost_is_done(run: Run, api: Cluster) -> None:
    api.run("llama", GPU)
    api.fault(method="POST", path="/eviction$", reset="late")
    assert run(drain=True, timeout=20)["remaining"] == []


def test_an_api_server_that_is_gone_leaves_the_node_marked_and_a_later_run_goes_on(run: Run, api: Cluster) -> None:
    api.run("llama", GPU)
    fault = api.fault(method="POST", path="/eviction$", reset="early", times=99)
    result = run(drain=True, timeout=1, fails=True)
    assert "nim/llama" in result["msg"]
    assert "stays cordoned" in result["msg"]
    assert api.pods == ["llama"]
    assert api.node == (True, True)
    fault.times = 0
    assert run(drain=True)["evicted"] == ["nim/llama"]
    run(state="restored")
    assert api.node == (False, False)


def test_who_may_not_evict_is_told_the_rule(run: Run, api: Cluster) -> None:
    api.run("llama", GPU)
    rule = 'User "jane" cannot create resource "pods/eviction" in API group "" in the namespace "nim"'
    api.fault(method="POST", path="/eviction$", status=403, message=f'pods "llama" is forbidden: {rule}', times=99)
    result = run(drain=True, fails=True)
    assert 'resources: ["pods/eviction"], verbs: ["create"]' in result["msg"]
    assert result["changed"]  # the cordon


# -- giving back


def status(api: Cluster, gpus: str, ready: str = "True", boot: str = "first") -> None:
    condition = {"type": "Ready", "status": ready, "reason": "KubeletNotReady", "message": "no network yet"}
    api.edit("Node", "", "gpu-1", "status.conditions", [condition])
    api.edit("Node", "", "gpu-1", "status.allocatable", {"cpu": "8", "nvidia.com/gpu": gpus})
    api.edit("Node", "", "gpu-1", "status.nodeInfo", {"bootID": boot})


def test_a_node_is_given_back_once_it_is_as_it_was(run: Run, api: Cluster) -> None:
    status(api, "8")
    run(drain=True)
    status(api, "0", ready="False")
    result = run(state="restored", timeout=1, fails=True)
    assert "is not ready (KubeletNotReady: no network yet); 0 of 8 nvidia.com/gpu are allocatable" in result["msg"]
    assert "wait: false" in result["msg"]
    assert result["cordoned_by_us"]
    assert api.node == (True, True)

    status(api, "7")
    assert "7 of 8 nvidia.com/gpu" in run(state="restored", timeout=1, fails=True)["msg"]
    timer = threading.Timer(1, status, (api, "8"))
    timer.start()
    assert run(state="restored", timeout=20)["changed"]
    timer.join()
    assert api.node == (False, False)


def test_what_a_node_said_before_it_was_booted_does_not_count(run: Run, api: Cluster) -> None:
    status(api, "8")
    run(drain=True)
    assert "since the host was booted" in run(state="restored", boot_id="second", timeout=1, fails=True)["msg"]
    assert api.node == (True, True)
    timer = threading.Timer(1, status, (api, "8", "True", "second"))
    timer.start()
    assert run(state="restored", boot_id="second", timeout=20)["changed"]
    timer.join()


def test_more_than_a_node_had_is_not_asked_for(run: Run, api: Cluster) -> None:
    """It may have been cordoned because it was broken."""
    status(api, "0", ready="False")
    run(drain=True)
    assert run(state="restored")["changed"]


def test_a_second_drain_does_not_forget_what_the_node_had(run: Run, api: Cluster) -> None:
    status(api, "8")
    run(drain=True)
    status(api, "0")
    run(drain=True)
    assert "0 of 8" in run(state="restored", timeout=1, fails=True)["msg"]


def test_a_node_can_be_given_back_as_it_is(run: Run, api: Cluster) -> None:
    status(api, "8")
    run(drain=True)
    status(api, "0", ready="False")
    assert run(state="restored", check=True, boot_id="second", timeout=1)["changed"]
    assert api.node == (True, True)
    assert run(state="restored", wait=False)["changed"]
    assert api.node == (False, False)


def test_the_mark_of_an_older_release_means_ready(run: Run, api: Cluster) -> None:
    status(api, "8")
    run(drain=True)
    api.edit("Node", "", "gpu-1", "metadata.annotations", {MARK: "true"})
    status(api, "0", ready="False")
    result = run(state="restored", timeout=1, fails=True)
    assert "not ready" in result["msg"]
    assert "allocatable" not in result["msg"]
    status(api, "0")
    assert run(state="restored")["changed"]


def test_an_api_server_that_is_away_is_waited_for_before_a_node_is_given_back(run: Run, api: Cluster) -> None:
    status(api, "8")
    run(drain=True)
    api.fault(method="GET", path="/nodes$", status=503, times=2)
    assert run(state="restored", timeout=20)["changed"]
    run(drain=True)
    api.fault(method="GET", path="/nodes$", status=503, times=99)
    result = run(state="restored", timeout=1, fails=True)
    assert "has not answered" in result["msg"]
    assert api.node == (True, True)
