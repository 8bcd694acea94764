# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: Contributors to gpuops.nim
"""Who is found to use a key, against an API server on loopback."""

from __future__ import annotations

import pytest

from ansible_collections.gpuops.nim.plugins.module_utils._kube.auth import connect
from ansible_collections.gpuops.nim.plugins.module_utils._ops import key_users
from ansible_collections.gpuops.nim.plugins.module_utils._ops.key_users import Names
from ansible_collections.gpuops.nim.tests.unit.fake_apiserver import FakeApiServer

USED = Names("ngc-secret", "nvidia-nim-secrets")
ISVC = "serving.kserve.io/v1beta1"
LABEL = "serving.kserve.io/inferenceservice"
PULLS = {"imagePullSecrets": [{"name": "ngc-secret"}], "containers": [{"name": "kserve-container", "image": "i"}]}


def reads(source):
    return {"containers": [{"name": "kserve-container", "image": "i", **source}]}


@pytest.fixture
def api():
    with FakeApiServer() as server:
        yield server


@pytest.fixture
def client(api):
    return connect({"host": api.url, "api_key": "token-of-the-tests"})


def put(api, api_version, kind, namespace, name, **more):
    meta = {"name": name, "namespace": namespace, **more.pop("metadata", {})}
    api.put({"apiVersion": api_version, "kind": kind, "metadata": meta, **more})


def service(api, namespace, name, predictor, **metadata):
    put(api, ISVC, "InferenceService", namespace, name, spec={"predictor": predictor}, metadata=metadata)


def found(client, namespaces=()):
    return {place.name: [each.name for each in place.services] for place in key_users.find(client, namespaces, USED)}


@pytest.mark.parametrize(
    ("pod", "uses"),
    [
        (PULLS, True),
        (
            reads({"env": [{"name": "K", "valueFrom": {"secretKeyRef": {"name": "nvidia-nim-secrets", "key": "K"}}}]}),
            True,
        ),
        (reads({"envFrom": [{"secretRef": {"name": "nvidia-nim-secrets"}}]}), True),
        ({"initContainers": reads({"envFrom": [{"secretRef": {"name": "nvidia-nim-secrets"}}]})["containers"]}, True),
        (reads({"envFrom": [{"configMapRef": {"name": "nvidia-nim-secrets"}}]}), False),
        (reads({"env": [{"name": "K", "value": "v"}]}), False),
    ],
)
def test_a_pod_uses_the_key_by_what_it_names(pod, uses):
    assert USED.used_by(pod) is uses


def test_namespaces_with_both_secrets_or_a_service_that_names_one(api, client):
    for namespace, name in (("both", USED.pull), ("both", USED.runtime), ("operator", USED.pull)):
        put(api, "v1", "Secret", namespace, name)
    service(api, "named", "llama", PULLS)
    service(api, "other", "bert", reads({}))
    assert found(client) == {"both": [], "named": ["llama"]}
    assert found(client, ["named", "operator"]) == {"named": ["llama"]}


def test_what_a_runtime_adds_is_in_the_deployment(api, client):
    service(api, "nim", "llama", {"model": {"modelFormat": {"name": "nvidia-nim-llama3-8b-instruct"}}})
    assert found(client) == {}
    labels = {"serving.kserve.io/inferenceservice": "llama"}
    put(
        api,
        "apps/v1",
        "Deployment",
        "nim",
        "llama-predictor",
        spec={"template": {"spec": PULLS}},
        metadata={"labels": labels},
    )
    assert found(client) == {"nim": ["llama"]}


def test_pods_are_told_apart_by_service(api, client):
    service(api, "nim", "llama", PULLS)
    for name, label in (("ours", "llama"), ("theirs", "bert"), ("plain", None)):
        labels = {LABEL: label} if label else {}
        put(api, "v1", "Pod", "nim", name, spec=PULLS, metadata={"labels": labels})
    (place,) = key_users.find(client, [], USED)
    assert [pod["metadata"]["name"] for pod in place.services[0].pods] == ["ours"]
    assert {pod["metadata"]["name"] for pod in place.others(USED)} == {"theirs", "plain"}


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"ownerReferences": [{"kind": "NIMService", "name": "n", "uid": "u"}]}, "NIM Operator"),
        ({"annotations": {"serving.kserve.io/deploymentMode": "Serverless"}}, "Knative"),
        ({"annotations": {"serving.kserve.io/deploymentMode": "RawDeployment"}}, ""),
        ({}, ""),
    ],
)
def test_services_whose_pods_are_not_ours_to_renew(api, client, more, why):
    service(api, "nim", "llama", PULLS, **more)
    (place,) = key_users.find(client, [], USED)
    said = place.services[0].not_handled
    assert why in said if why else said == ""


def test_the_operators_own_services_are_found_by_the_secrets_they_name(api, client):
    def nim(name, **spec):
        put(api, "apps.nvidia.com/v1alpha1", "NIMService", "nim", name, spec=spec)

    assert key_users.operators(client, [], USED) == []  # it isn't installed
    api.served.add("apps.nvidia.com/v1alpha1")
    nim("by-key", authSecret="nvidia-nim-secrets")
    nim("by-pull", image={"pullSecrets": ["ngc-secret"]})
    nim("other", authSecret="ngc-api-secret")
    assert [each["metadata"]["name"] for each in key_users.operators(client, [], USED)] == ["by-key", "by-pull"]
