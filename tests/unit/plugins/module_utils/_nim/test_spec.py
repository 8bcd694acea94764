# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: Contributors to gpuops.nim
"""Bad input: each with its own message that names the option and says what would be right."""

from __future__ import annotations

import pytest

from ansible_collections.gpuops.nim.plugins.module_utils._nim import spec
from ansible_collections.gpuops.nim.tests.unit.plugins.module_utils.scene import options

LONG = "a" * 46  # with "-predictor-" and "default" it has 64 characters

BAD = [
    ({"name": None}, "name", "is missing"),
    ({"name": "Llama3"}, "name", "'llama3' would do"),
    ({"name": "3llama"}, "name", "'llama' would do"),
    ({"name": "llama-"}, "name", "not ending with '-'"),
    ({"name": "llama.3"}, "name", "'llama-3' would do"),
    ({"name": LONG}, "name", "at most 45 characters fits"),
    ({"namespace": "My_Space"}, "namespace", "not a name for a namespace"),
    ({"image": None}, "image", "is missing"),
    ({"image": "https://nvcr.io/nim/x:1"}, "image", "https://"),
    ({"gpus": -1}, "gpus", "must be 0 or more"),
    ({"gpu_resource": "gpu"}, "gpu_resource", "nvidia.com/gpu"),
    ({"cpu": "8 cores"}, "cpu", "for example 8 or 500m"),
    ({"cpu": "0"}, "cpu", "more than 0"),
    ({"cpu": "8Gi"}, "cpu", "counted in cores"),
    ({"memory": "32GB"}, "memory", "for example 32Gi"),
    ({"memory": "32"}, "memory", "32Gi"),
    ({"memory": "lots"}, "memory", "not a quantity"),
    ({"share_memory": "x"}, "share_memory", "not a quantity"),
    ({"port": 0}, "port", "1 to 65535"),
    ({"metrics_port": 70000}, "metrics_port", "1 to 65535"),
    ({"security_context": {"runAsUsr": 1}}, "security_context", "did you mean runAsUser"),
    ({"security_context": {"privileged": True}}, "security_context", "pod_patch"),
    ({"security_context": {"runAsUser": "root"}}, "security_context.runAsUser", "must be a number"),
    ({"annotations": {"a b": "1"}}, "annotations", "not a valid key"),
    ({"annotations": {"a": ["x"]}}, "annotations.a", "must be a string"),
    ({"annotations": {spec.SCALER_ANNOTATION: "external"}}, "annotations", "autoscaler_class"),
    ({"annotations": {spec.MODE_ANNOTATION: "Standard"}}, "annotations", "deployment_mode"),
    ({"labels": {"serving.kserve.io/inferenceservice": "x"}}, "labels", "KServe sets it"),
    ({"labels": {"app.kubernetes.io/managed-by": "me"}}, "labels", "this collection"),
    ({"labels": {"gpuops.nim/x": "1"}}, "labels", "belongs to this collection"),
    ({"labels": {"a": "not a label"}}, "labels.a", "not a valid value"),
    ({"node_selector": {"a": "b c"}}, "node_selector.a", "not a valid value"),
    ({"env": {"1A": "x"}}, "env", "not the name of a variable"),
    ({"env": {"A": {"x": 1}}}, "env.A", "to_json"),
    ({"env": {"A": None}}, "env.A", "nothing"),
    ({"env": {"NIM_SERVER_PORT": 9000}}, "env", "set port alone"),
    ({"env": {"INFERENCE_SERVICE_NAME": "x"}}, "env", "KServe sets it"),
    ({"env": {"NGC_API_KEY": "x"}}, "env_from_secret", "also in env"),
    ({"env_from_secret": {"A": {"secret": "s", "name": "k"}}}, "env_from_secret.A", "{secret: NAME, key: KEY}"),
    ({"env_from_secret": {"A": 1}}, "env_from_secret.A", "name of a secret"),
    ({"env_from_secret": {"A": "My Secret"}}, "env_from_secret.A", "not a secret's name"),
    ({"env_from_secret": {"A": {"secret": "s", "key": "a b"}}}, "env_from_secret.A", "not a key of a secret"),
    ({"image_pull_secrets": ["a b"]}, "image_pull_secrets", "not an object's name"),
    ({"service_account_name": "A"}, "service_account_name", "not an object's name"),
    ({"cache": {"claim": "A", "path": "/m"}}, "cache.claim", "not a claim's name"),
    ({"cache": {"claim": "a", "path": "m"}}, "cache.path", "absolute path"),
    ({"cache": {"claim": "a", "path": "/dev/shm"}}, "cache.path", "absolute path of its own"),
    ({"cache": {"claim": "a", "path": "/m", "size": "big"}}, "cache.size", "not a quantity"),
    ({"cache": {"claim": "a", "path": "/m", "size": "100"}}, "cache.size", "less than any model"),
    ({"cache": {"claim": "a", "path": "/m", "storage_class": "s"}}, "cache.storage_class", "needs cache.size"),
    ({"cache": {"claim": "a", "path": "/m"}, "env": {"NIM_CACHE_PATH": "/x"}}, "cache.path", "would not use the claim"),
    ({"min_replicas": -1}, "min_replicas", "must be 0 or more"),
    ({"min_replicas": 0}, "min_replicas", "keda"),
    ({"min_replicas": 3, "max_replicas": 2}, "max_replicas", "less than min_replicas"),
    ({"max_replicas": 2}, "max_replicas", "autoscaler_class: hpa"),
    ({"startup_timeout": 0}, "startup_timeout", "must be 1 or more"),
    ({"endpoint_host": "https://a.example.com"}, "endpoint_host", "without scheme and port"),
    ({"endpoint_host": "A.example.com"}, "endpoint_host", "lower-case"),
    ({"endpoint_host": "a.example.com:443"}, "endpoint_host", "without scheme and port"),
    ({"endpoint_host": "203.0.113.7"}, "endpoint_host", "not a DNS name"),
    ({"tls_secret": "tls"}, "tls_secret", "needs endpoint_host"),
    ({"tls_secret": "My Tls", "endpoint_host": "a.example.com"}, "tls_secret", "not an object's name"),
    ({"ingress_address": "127.0.0.1:https"}, "ingress_address", "host:port"),
    ({"ingress_address": "ftp://127.0.0.1"}, "ingress_address", "host:port"),
    ({"tolerations": [{"kee": "x"}]}, "tolerations[0]", "no field 'kee'"),
    ({"tolerations": [{"key": "x", "operator": "In"}]}, "tolerations[0]", "Exists or Equal"),
    ({"tolerations": [{"key": "x", "effect": "No"}]}, "tolerations[0]", "NoSchedule"),
    ({"tolerations": [{"value": "x"}]}, "tolerations[0]", "must be Exists"),
    ({"tolerations": [{"key": "x", "operator": "Exists", "value": "y"}]}, "tolerations[0]", "takes no value"),
    ({"pod_patch": {"spec": {}}}, "pod_patch", "directly"),
    ({"pod_patch": {"minReplicas": 2}}, "pod_patch", "not a field of a pod"),
    ({"pod_patch": {"containers": [{"image": "x"}]}}, "pod_patch", "needs 'name'"),
    (
        {
            "cache": {"claim": "a", "path": "/m"},
            "pod_patch": {
                "containers": [{"name": "kserve-container", "volumeMounts": [{"name": "x", "mountPath": "/m"}]}]
            },
        },
        "pod_patch",
        "already is",
    ),
]


@pytest.mark.parametrize(("given", "option", "words"), BAD)
def test_bad_options(given, option, words):
    with pytest.raises(spec.BadSpec) as caught:
        spec.read(options(**given))
    assert [name for name, _ in caught.value.errors] == [option]
    assert words in caught.value.errors[0][1]


def test_all_that_is_wrong_is_said_at_once():
    with pytest.raises(spec.BadSpec) as caught:
        spec.read(options(name="X", memory="32GB", gpus=-1, port=0))
    assert {name for name, _ in caught.value.errors} == {"name", "memory", "gpus", "port"}


def test_values_become_what_kubernetes_wants():
    read = spec.read(
        options(
            env={"A": True, "B": 8, "C": 0.5},
            security_context={"runAsUser": "0"},
            env_from_secret={"HF_TOKEN": {"secret": "other", "key": "token"}},
        )
    )
    assert read.env == {"A": "true", "B": "8", "C": "0.5"}
    assert read.security_context == {"runAsUser": 0}
    assert read.env_from_secret["HF_TOKEN"] == spec.SecretKey("other", "token")


WARNINGS = [
    ({"memory": "16Gi", "share_memory": "16Gi"}, "share_memory"),
    ({"image": "nvcr.io/nim/meta/llama3-8b-instruct"}, "no fixed tag"),
    ({"min_replicas": 2, "cache": {"claim": "c", "path": "/m", "size": "9Gi"}}, "ReadWriteMany"),
]


@pytest.mark.parametrize(("given", "words"), WARNINGS)
def test_what_works_but_deserves_a_word(given, words):
    assert any(words in warning for warning in spec.read(options(**given)).warnings)


def test_the_defaults_deserve_none():
    assert spec.read(options()).warnings == ()


def test_identity_needs_the_name_alone():
    assert spec.identity({"name": "a", "namespace": "b"}) == ("b", "a")
    with pytest.raises(spec.BadSpec):
        spec.identity({"name": "A", "namespace": "b"})
