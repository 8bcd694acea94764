# SPDX-License-Identifier: GPL-3.0-or-later
"""What the checks of the preflight conclude; that they look at the right things is tested on a real cluster."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from ansible_collections.gpuops.nim.plugins.module_utils._kube.client import Client
from ansible_collections.gpuops.nim.plugins.module_utils._kube.errors import Forbidden, KubeError, Unreachable
from ansible_collections.gpuops.nim.plugins.module_utils._nim import models, quota, spec
from ansible_collections.gpuops.nim.plugins.module_utils._ops.checks import (
    gpus,
    limits,
    references,
    rights,
    rows,
    storage,
)
from ansible_collections.gpuops.nim.plugins.module_utils._ops.checks.scene import Scene, Wanted, wanted
from ansible_collections.gpuops.nim.plugins.module_utils._ops.services import Entry
from ansible_collections.gpuops.nim.tests.unit.plugins.module_utils.scene import options

Object = dict[str, Any]
L40S = models.Gpu("NVIDIA-L40S", 48, True)
A10 = models.Gpu("NVIDIA-A10", 24, False)
T4 = models.Gpu("Tesla-T4", 16, False)
H100 = models.Gpu("NVIDIA-H100-80GB-HBM3", 85, True)


def service(**given: Any) -> Wanted:
    params = options(**given)
    return wanted(Entry("", params), spec.read(params))


# -- sizes


@pytest.mark.parametrize(
    ("given", "gpu", "status", "said"),
    [
        ({}, L40S, "ok", "1 x NVIDIA-L40S has 48 GB"),
        ({}, A10, "ok", "1 x NVIDIA-A10 has 24 GB"),
        ({}, T4, "warning", "a small profile"),
        ({"image": "nvcr.io/nim/meta/llama3-70b-instruct:1.0.0", "gpus": 2, "memory": "200Gi"}, H100, "ok", "170 GB"),
        ({"image": "nvcr.io/nim/meta/llama3-70b-instruct:1.0.0"}, L40S, "failure", "has 48 GB"),
        ({"image": "nvcr.io/nim/meta/llama3-70b-instruct:1.0.0", "gpus": 4}, A10, "failure", "have 96 GB"),
        # eight GPUs would hold it, but the pod's memory would not
        ({"image": "nvcr.io/nim/meta/llama3-70b-instruct:1.0.0", "gpus": 4}, H100, "warning", "memory is 32Gi"),
        # by its name alone nothing is a failure
        ({"image": "nvcr.io/nim/openai/gpt-oss-120b:1.0.0"}, H100, "warning", "judged by its name"),
        ({"gpu_resource": "nvidia.com/mig-1g.5gb"}, L40S, "failure", "has 5 GB"),
        ({"gpus": 2, "model_profile": "vllm-fp16-tp1"}, L40S, "failure", "for 1 GPUs"),
        ({"model_profile": "tensorrt_llm-a10g-fp16-tp1-latency"}, A10, "warning", "was made for A10G"),
        ({"model_profile": "tensorrt_llm-l40s-fp8-tp1-latency"}, L40S, "ok", "48 GB"),
    ],
)
def test_is_the_gpu_large_enough(given: Object, gpu: models.Gpu, status: str, said: str) -> None:
    one = service(**given)
    model = models.model_of(one.spec.image)
    assert model is not None
    row = gpus.judge(one, model, gpu)
    assert (row.status, said in row.said) == (status, True), row
    assert bool(row.remedy) == (status != "ok")


# -- limits


def test_what_a_quota_counts_of_a_pod() -> None:
    counted = quota.of_pod(service(gpus=2, cpu="4", memory="8Gi").pod)
    assert counted["pods"] == 1000
    assert counted["requests.nvidia.com/gpu"] == 2000
    assert counted["requests.cpu"] == counted["cpu"] == counted["limits.cpu"] == 4000
    assert counted["limits.memory"] == 8 * 2**30 * 1000


@pytest.mark.parametrize(
    ("rule", "given", "counts"),
    [
        ({}, {}, True),
        ({"scopes": ["NotBestEffort"]}, {}, True),
        ({"scopes": ["BestEffort"]}, {}, False),
        ({"scopes": ["Terminating"]}, {}, False),
        ({"scopeSelector": {"matchExpressions": [{"scopeName": "PriorityClass", "operator": "In", "values": ["a"]}]}},
         {"priority_class_name": "a"}, True),
        ({"scopeSelector": {"matchExpressions": [{"scopeName": "PriorityClass", "operator": "In", "values": ["a"]}]}},
         {}, False),
        ({"scopeSelector": {"matchExpressions": [{"scopeName": "PriorityClass", "operator": "Exists"}]}}, {}, False),
        ({"scopeSelector": {"matchExpressions": [{"scopeName": "CrossNamespacePodAffinity", "operator": "Exists"}]}},
         {}, False),
    ],
)  # fmt: skip
def test_which_pods_a_quota_counts(rule: Object, given: Object, counts: bool) -> None:
    assert quota.counts({"spec": rule}, service(**given).pod) is counts


@pytest.mark.parametrize(
    ("limit", "said"),
    [
        ({"type": "Container", "max": {"cpu": "8", "memory": "32Gi"}}, None),
        ({"type": "Container", "max": {"cpu": "4"}}, "cpu 8 is more than 4, the most for a Container"),
        ({"type": "Container", "min": {"cpu": "16"}}, "cpu 8 is less than 16, the least for a Container"),
        ({"type": "Pod", "max": {"memory": "16Gi"}}, "memory 32768Mi is more than 16Gi, the most for a Pod"),
        ({"type": "Container", "maxLimitRequestRatio": {"cpu": "1"}}, None),
        ({"type": "PersistentVolumeClaim", "min": {"storage": "100Gi"}}, "storage 50Gi is less than 100Gi"),
    ],
)
def test_what_a_limit_range_refuses(limit: Object, said: str | None) -> None:
    found = list(limits.outside([limit], service(cache={"claim": "m", "size": "50Gi", "path": "/mnt/models"})))
    assert found == [] if said is None else said in found[0]


# -- references


def test_all_that_a_pod_names() -> None:
    patch = {
        "volumes": [
            {"name": "a", "secret": {"secretName": "s1", "items": [{"key": "k1", "path": "p"}]}},
            {"name": "b", "projected": {"sources": [{"configMap": {"name": "c1"}}, {"secret": {"name": "s2"}}]}},
            {"name": "c", "configMap": {"name": "c2", "optional": True}},
        ],
        "containers": [{"name": "kserve-container", "envFrom": [{"secretRef": {"name": "s3"}}]}],
    }
    one = service(
        pod_patch=patch, priority_class_name="p", runtime_class_name="r", service_account_name="a",
        endpoint_host="a.example.com", tls_secret="t", ca_bundle={"config_map": "ca", "key": "ca.crt"},
    )  # fmt: skip
    found = {(each.kind, each.name, each.key) for each in references.references(one)}
    assert found >= {
        ("PriorityClass", "p", ""), ("RuntimeClass", "r", ""), ("ServiceAccount", "a", ""), ("Secret", "s1", "k1"),
        ("ConfigMap", "c1", ""), ("Secret", "s2", ""), ("Secret", "s3", ""), ("Secret", "t", "tls.key"),
        ("ConfigMap", "ca", ""), ("Secret", "nvidia-nim-secrets", "NGC_API_KEY"), ("Secret", "ngc-secret", ""),
    }  # fmt: skip
    assert not [each for each in found if each[1] == "c2"]


# -- rights


def test_rules_are_as_few_as_they_can_be() -> None:
    given = [
        *rights._to("n", "v1", "Secret", *rights.WRITE, name="a"),
        *rights._to("n", "v1", "Secret", *rights.WRITE, name="b"),
        *rights._to("n", "v1", "Service", "list"),
        *rights._to("n", "v1", "LimitRange", "list"),
        *rights._to("n", "apps/v1", "Deployment", "list"),
    ]
    rules = rights._rules(given)
    named = {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["a", "b"], "verbs": ["get", "patch"]}
    assert named in rules
    assert {"apiGroups": [""], "resources": ["services", "limitranges"], "verbs": ["list"]} in rules
    assert {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["list"]} in rules
    assert len(rules) == 4


@pytest.mark.parametrize(
    ("user", "subject"),
    [
        ("system:serviceaccount:ci:deployer", {"kind": "ServiceAccount", "name": "deployer", "namespace": "ci"}),
        ("me@example.com", {"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "me@example.com"}),
    ],
)
def test_whom_a_role_is_bound_to(user: str, subject: Object) -> None:
    assert rights._subject(user) == subject
    (_role, binding) = yaml.safe_load_all(yaml.safe_dump_all(rights._role("r", "n", [], subject)))
    assert (binding["subjects"], binding["roleRef"]["name"]) == ([subject], "r")


# -- rows and reading


def test_what_could_not_be_looked_at_is_no_failure() -> None:
    said = "User a may not list nodes. Missing RBAC rule: x"
    refused = Forbidden(said, verb="list", group="", resource="nodes", namespace=None)
    row = rows.unseen("gpus", "a", refused)
    assert (row.status, row.said) == ("warning", "not checked: User a may not list nodes")
    assert rows.unseen("gpus", "a", Unreachable("it is away")).status == "warning"


def test_what_was_read_once_is_not_read_again_nor_is_its_error() -> None:
    def refuse() -> None:
        asked.append(1)
        raise KubeError("no")

    asked: list[int] = []
    scene = Scene({}, [], Client(lambda: None))  # type: ignore[arg-type, return-value]
    for _ in range(2):
        with pytest.raises(KubeError, match="no"):
            scene.once("x", refuse)
    assert len(asked) == 1


# -- what to do when no node takes it

GPU = "nvidia.com/gpu"


def a_node(name: str, gpus: str = "0", taints: Any = (), ready: str = "True", **more: Any) -> Object:
    allocatable = {"cpu": "64", "memory": "256Gi", "pods": "110", GPU: gpus}
    status = {"allocatable": allocatable, "conditions": [{"type": "Ready", "status": ready}]}
    return {"metadata": {"name": name, "labels": {"pool": name}}, "spec": {"taints": taints, **more}, "status": status}


def taint(key: str, value: str = "") -> Object:
    return {"key": key, "value": value, "effect": "NoSchedule"}


CONTROL = a_node("control", taints=[taint("node-role.kubernetes.io/control-plane")])


@pytest.mark.parametrize(
    ("given", "nodes", "remedy"),
    [
        ({}, [CONTROL, a_node("a")], f"Add a GPU node; if there is one, its device plugin must offer {GPU}"),
        # not the control plane's taint: it has no GPU
        ({}, [CONTROL, a_node("g", "4", [taint("gpu", "only")])], "set tolerations: ['gpu=only:NoSchedule']"),
        ({}, [a_node("a"), a_node("g", "4", unschedulable=True)], "kubectl uncordon g"),
        ({}, [a_node("g", "4", [taint("node.kubernetes.io/unschedulable")], unschedulable=True)], "kubectl uncordon g"),
        ({}, [a_node("a"), a_node("g", "4", [taint("node.kubernetes.io/not-ready")])], "kubectl describe node g"),
        ({}, [a_node("a"), a_node("g", "4", ready="Unknown")], "kubectl describe node g"),
        ({"node_selector": {"pool": "x"}}, [a_node("a"), a_node("g", "4")], "nodes have pool: a, g"),
        ({"node_selector": {"pool": "a"}}, [a_node("a"), a_node("b")], "Add a GPU node"),
        ({"gpus": 8}, [a_node("a"), a_node("g", "4")], f"No node has more than 4 {GPU}"),
        ({"cpu": "100"}, [a_node("g", "4")], "Ask for less cpu"),
        ({}, [], "Add a node"),
    ],
)
def test_what_to_do_when_no_node_takes_it(given: Object, nodes: list[Object], remedy: str) -> None:
    one = service(**given)
    reasons = [gpus.capacity.refusal(one.pod, node) for node in nodes]
    assert all(reasons)
    assert remedy in gpus._remedy(one, one.pod, nodes, reasons)


@pytest.mark.parametrize(
    ("free", "nodes", "status", "said"),
    [
        ({"a": 70e9}, 1, "ok", "70.0 GB are free on a"),
        ({"a": 10e9, "b": 70e9}, 2, "ok", "70.0 GB are free on b"),
        ({"a": 10e9}, 1, "warning", "10.0 GB are free on a"),
        ({"a": 10e9, "b": 20e9}, 2, "warning", "20.0 GB are free on b, the most of 2 nodes"),
        ({"a": 10e9, "b": 20e9}, 90, "warning", "20.0 GB are free on b, the most of 2 of 90 nodes"),
    ],
)
def test_what_is_free_on_the_disk(free, nodes, status, said):
    row = storage.room("llama", "about 60.0 GB on the node", 60e9, free, nodes)
    assert (row.status, row.said) == (status, f"about 60.0 GB on the node; {said}")
    assert ("crictl rmi" in row.remedy) == (status == "warning")
