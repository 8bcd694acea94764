# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: Contributors to gpuops.nim
from __future__ import annotations

import base64
import json

import pytest

from ansible_collections.gpuops.nim.plugins.module_utils._nim import kserve_config, manifests, spec
from ansible_collections.gpuops.nim.tests.unit.plugins.module_utils.scene import options, wanted


def container(**given):
    return wanted(**given)["spec"]["predictor"]["containers"][0]


def test_the_original_service():
    """What the one-click service of old deployed with arena, option by option."""
    isvc = wanted(
        cpu="4",
        memory="16Gi",
        security_context={"runAsUser": 0},
        autoscaler_class="external",
        cache={"claim": "nim-model", "path": "/mnt/models"},
    )
    assert isvc["metadata"]["annotations"] == {
        "serving.kserve.io/deploymentMode": "Standard",
        "serving.kserve.io/autoscalerClass": "external",
    }
    predictor = isvc["spec"]["predictor"]
    main = predictor["containers"][0]
    sizes = {"cpu": "4", "memory": "16Gi", "nvidia.com/gpu": "1"}
    assert main["name"] == "kserve-container"
    assert main["image"] == "nvcr.io/nim/meta/llama3-8b-instruct:1.0.0"
    assert main["ports"] == [{"name": "http", "containerPort": 8000, "protocol": "TCP"}]
    assert main["resources"] == {"requests": sizes, "limits": sizes}
    assert main["env"] == [
        {"name": "NGC_API_KEY", "valueFrom": {"secretKeyRef": {"name": "nvidia-nim-secrets", "key": "NGC_API_KEY"}}},
        {"name": "NIM_CACHE_PATH", "value": "/mnt/models"},
    ]
    assert main["volumeMounts"] == [
        {"name": "dshm", "mountPath": "/dev/shm"},
        {"name": "nim-cache", "mountPath": "/mnt/models"},
    ]
    assert predictor["volumes"] == [
        {"name": "dshm", "emptyDir": {"medium": "Memory", "sizeLimit": "16Gi"}},
        {"name": "nim-cache", "persistentVolumeClaim": {"claimName": "nim-model"}},
    ]
    assert predictor["imagePullSecrets"] == [{"name": "ngc-secret"}]
    assert predictor["securityContext"] == {"runAsUser": 0}
    assert predictor["minReplicas"] == 1


def endpoint(ingress_class="contour", **given):
    return manifests.endpoint(spec.read(options(endpoint_host="llama.example.com", **given)), ingress_class)


def test_the_endpoint_leads_to_the_predictor_and_is_not_kserves():
    ingress = endpoint()
    assert ingress["metadata"]["name"] == "llama3-8b-instruct-endpoint"
    # KServe 0.20 takes what has its labels for its own, and this one's name is another than its Ingress's
    assert not {manifests.ISVC_LABEL, "component"} & set(ingress["metadata"]["labels"])
    (rule,) = ingress["spec"]["rules"]
    assert rule["host"] == "llama.example.com"
    (path,) = rule["http"]["paths"]
    assert path["backend"]["service"] == {"name": "llama3-8b-instruct-predictor", "port": {"number": 80}}
    assert (ingress["spec"]["ingressClassName"], "tls" in ingress["spec"]) == ("contour", False)
    assert "ingressClassName" not in endpoint("")["spec"]


def test_the_endpoint_with_tls():
    ingress = endpoint(tls_secret="llama-tls")
    assert ingress["spec"]["tls"] == [{"hosts": ["llama.example.com"], "secretName": "llama-tls"}]
    assert ingress["metadata"]["annotations"] == {"ingress.kubernetes.io/force-ssl-redirect": "true"}


def test_the_order_of_the_options_does_not_matter():
    one = wanted(env={"B": "2", "A": "1"}, labels={"y": "1", "x": "2"}, node_selector={"b": "1", "a": "2"})
    other = wanted(env={"A": "1", "B": "2"}, labels={"x": "2", "y": "1"}, node_selector={"a": "2", "b": "1"})
    assert json.dumps(one) == json.dumps(other)


def test_probes_ask_nim_and_give_it_its_time():
    main = container(startup_timeout=601)
    for probe, path in (("startupProbe", "ready"), ("readinessProbe", "ready"), ("livenessProbe", "live")):
        assert main[probe]["httpGet"] == {"path": f"/v1/health/{path}", "port": "http", "scheme": "HTTP"}
    startup = main["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] >= 601


def test_another_port_is_told_to_nim():
    env = {item["name"]: item.get("value") for item in container(port=9000)["env"]}
    assert (env["NIM_SERVER_PORT"], env["NIM_HTTP_API_PORT"]) == ("9000", "9000")
    assert "NIM_SERVER_PORT" not in {item["name"] for item in container()["env"]}


def test_without_gpu_shared_memory_and_secrets():
    isvc = wanted(gpus=0, share_memory="", image_pull_secrets=[], env_from_secret={}, security_context={})
    predictor = isvc["spec"]["predictor"]
    assert not {"volumes", "imagePullSecrets", "securityContext"} & set(predictor)
    main = predictor["containers"][0]
    assert not {"env", "volumeMounts"} & set(main)
    assert main["resources"]["limits"] == {"cpu": "8", "memory": "32Gi"}


@pytest.mark.parametrize(
    ("options", "strategy"),
    [
        ({}, {"type": "Recreate"}),
        (
            {"min_replicas": 2},
            {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}},
        ),
        (
            {"update_strategy": "surge"},
            {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
        ),
    ],
)
def test_update_strategies(options, strategy):
    assert wanted(**options)["spec"]["predictor"]["deploymentStrategy"] == strategy


def test_pod_patch_has_the_last_word():
    main = container(pod_patch={"containers": [{"name": "kserve-container", "livenessProbe": None, "stdin": True}]})
    assert "livenessProbe" not in main
    assert main["stdin"] is True


def test_the_claim():
    given = {"claim": "c", "path": "/m", "size": "9Gi", "storage_class": "nas", "access_modes": ["ReadWriteMany"]}
    claim = manifests.claim(spec.read(options(cache=given)))
    assert claim["spec"] == {
        "accessModes": ["ReadWriteMany"],
        "resources": {"requests": {"storage": "9Gi"}},
        "storageClassName": "nas",
    }


@pytest.mark.parametrize(("tag", "path"), [("1.0.0", "/metrics"), ("2.0.12", "/v1/metrics")])
def test_metrics(tag, path):
    read = spec.read(options(image=f"nvcr.io/nim/meta/llama3-8b-instruct:{tag}", port=9000))
    service, monitor = manifests.metrics_service(read), manifests.service_monitor(read)
    assert service["spec"]["ports"][0]["targetPort"] == 9000
    assert not set(service["metadata"]["labels"]) & {manifests.ISVC_LABEL, "component"}  # KServe 0.20 deletes such
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert monitor["spec"]["endpoints"][0]["path"] == path
    assert monitor["spec"]["endpoints"][0]["port"] == service["spec"]["ports"][0]["name"]


def test_the_pull_secret_is_what_a_kubelet_reads():
    secret = manifests.pull_secret("ngc-secret", "nim", [("nvcr.io", "$oauthtoken", "key")], "salt")
    assert secret["type"] == "kubernetes.io/dockerconfigjson"
    login = json.loads(base64.b64decode(secret["data"][".dockerconfigjson"]))["auths"]["nvcr.io"]
    assert base64.b64decode(login["auth"]) == b"$oauthtoken:key"
    assert secret["metadata"]["annotations"] == {"gpuops.nim/salt": "salt"}


def test_the_runtime_secret():
    secret = manifests.runtime_secret("s", "nim", {"NGC_API_KEY": "key"}, "salt")
    assert (secret["type"], base64.b64decode(secret["data"]["NGC_API_KEY"])) == ("Opaque", b"key")


MODES = [  # default mode in the ConfigMap, controller image, word
    ("Standard", "", "Standard"),
    ("Knative", "", "Standard"),
    ("RawDeployment", "", "RawDeployment"),
    ("Serverless", "", "RawDeployment"),
    ("Serverless", "kserve/kserve-controller:v0.15.2", "RawDeployment"),
    ("Serverless", "kserve/kserve-controller:v0.16.0", "Standard"),
    ("", "", "Standard"),
]


@pytest.mark.parametrize(("default", "image", "word"), MODES)
def test_the_word_for_the_mode(default, image, word):
    config = kserve_config.parse({"data": {"deploy": json.dumps({"defaultDeploymentMode": default})}})
    assert kserve_config.word_for(config, image) == word


def test_a_config_map_that_makes_no_sense_says_nothing():
    assert kserve_config.parse({"data": {"deploy": "{", "inferenceService": "[]"}}) == kserve_config.KServeConfig()
