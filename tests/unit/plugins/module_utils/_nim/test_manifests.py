# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: Contributors to gpuops.nim
from __future__ import annotations

import base64
import json

import pytest

from ansible_collections.gpuops.nim.plugins.module_utils._nim import extras, kserve_config, manifests, spec
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
    return extras.endpoint(spec.read(options(endpoint_host="llama.example.com", **given)), ingress_class)


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


def test_an_ending_pod_goes_on_answering_until_all_know():
    assert container()["lifecycle"] == {"preStop": {"sleep": {"seconds": 5}}}
    assert container(pre_stop_sleep=20)["lifecycle"] == {"preStop": {"sleep": {"seconds": 20}}}
    assert container(termination_grace_period=2)["lifecycle"] == {"preStop": {"sleep": {"seconds": 2}}}
    assert "lifecycle" not in container(pre_stop_sleep=0)
    assert "lifecycle" not in container(termination_grace_period=0)


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
    service, monitor = extras.metrics_service(read), extras.service_monitor(read)
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


def test_a_config_map_with_a_part_that_came_with_0_16_speaks_no_old_words():
    deploy = json.dumps({"defaultDeploymentMode": "Serverless"})
    config = kserve_config.parse({"data": {"deploy": deploy, "autoscaler": "{}"}})
    assert kserve_config.word_for(config, "registry.example.com/kserve@sha256:0") == "Standard"


def test_a_config_map_that_makes_no_sense_says_nothing():
    assert kserve_config.parse({"data": {"deploy": "{", "inferenceService": "[]"}}) == kserve_config.KServeConfig()


# -- who scales


SCALERS = [  # options, class, whether there is an autoscaler of ours
    ({}, "none", False),
    ({"scale_metric": "Memory", "scale_target": 70, "max_replicas": 2}, "hpa", False),
    ({"scale_metric": "waiting", "scale_target": 10, "max_replicas": 2}, "external", True),
    ({"autoscaler_class": "external"}, "external", False),
    ({"autoscaler_class": "keda", "min_replicas": 0}, "keda", False),
]


@pytest.mark.parametrize(("given", "word", "ours"), SCALERS)
def test_who_scales_follows_from_what_is_scaled_on(given, word, ours):
    assert wanted(**given)["metadata"]["annotations"]["serving.kserve.io/autoscalerClass"] == word
    assert (extras.AUTOSCALER in extras.of(spec.read(options(**given)))) == ours


def test_devices_that_are_gpus_take_the_place_of_the_default_one():
    def limits(**given):
        found = container(**given)["resources"]["limits"]
        return {name: count for name, count in found.items() if "/" in name}

    assert limits() == {"nvidia.com/gpu": "1"}
    assert limits(devices={"rdma/hca": "2"}) == {"nvidia.com/gpu": "1", "rdma/hca": "2"}
    assert limits(devices={"nvidia.com/mig-1g.10gb": 1}) == {"nvidia.com/mig-1g.10gb": "1"}
    assert limits(gpu_memory=8, gpu_core=50) == {"aliyun.com/gpu-mem": "8", "aliyun.com/gpu-core.percentage": "50"}


def test_volumes_have_one_name_each():
    given = {
        "cache": {"claim": "nim-model", "path": "/mnt/models"},
        "data": ["nim-cache:/a", "my.models:/b", {"claim": "my.models", "path": "/c", "sub_path_expr": "$(X)"}],
        "config_files": [{"path": "/etc/a", "content": "1"}, {"path": "/etc/b", "content": "2"}],
    }
    predictor = wanted(**given)["spec"]["predictor"]
    names = [volume["name"] for volume in predictor["volumes"]]
    assert names == ["dshm", "nim-cache", "data-nim-cache", "my-models", "nim-files"]
    mounts = {mount["mountPath"]: mount for mount in predictor["containers"][0]["volumeMounts"]}
    assert {mount["name"] for mount in mounts.values()} == set(names)
    assert mounts["/c"]["subPathExpr"] == "$(X)"


def test_only_other_files_restart_the_pods():
    def mark(*contents):
        files = [{"path": f"/etc/{number}", "content": text} for number, text in enumerate(contents)]
        return wanted(config_files=files)["spec"]["predictor"]["annotations"]

    assert mark("a", "b") == mark("a", "b")
    assert mark("a", "b") != mark("ab", "")
    assert "annotations" not in wanted()["spec"]["predictor"]


def test_the_private_ca_is_added_by_nims_own_image():
    predictor = wanted(ca_bundle={"secret": "company", "key": "root.pem"})["spec"]["predictor"]
    (first,) = predictor["initContainers"]
    assert first["image"] == predictor["containers"][0]["image"]
    assert "securityContext" not in first
    assert "/private-ca/root.pem" in first["command"][2]
    env = {item["name"]: item.get("value") for item in predictor["containers"][0]["env"]}
    assert env["SSL_CERT_FILE"] == env["REQUESTS_CA_BUNDLE"]
    assert env["NIM_SDK_USE_NATIVE_TLS"] == "1"
    assert env["SSL_CERT_FILE"] in first["command"][2]
    assert {"name": "nim-ca", "secret": {"secretName": "company"}} in predictor["volumes"]


def test_a_model_of_a_runtime_takes_the_place_of_the_container():
    patch = {"containers": [{"name": "kserve-container", "stdin": True}]}
    given = {"image": None, "model_format": "nim:1", "storage_uri": "pvc://a/", "runtime_version": "2.0.12"}
    isvc = wanted(**given, pod_patch=patch)
    predictor = isvc["spec"]["predictor"]
    assert "containers" not in predictor
    model = predictor["model"]
    assert (model["modelFormat"], model["stdin"]) == ({"name": "nim", "version": "1"}, True)
    assert not {"image", "name"} & set(model)
    assert isvc["metadata"]["annotations"]["storage.kserve.io/readonly"] == "false"
    assert spec.read(options(**given)).contract.line == "2.x"


def test_a_command_for_the_shell_or_word_by_word():
    assert container(command="a && b", shell="bash")["command"] == ["bash", "-c", "a && b"]
    main = container(command=["a", "b c"], arguments=["d"])
    assert (main["command"], main["args"]) == (["a", "b c"], ["d"])


def test_tolerations_in_arenas_words():
    short = ["all", "a=b:NoSchedule", "a:NoExecute", "a=b:NoSchedule,Exists"]
    assert wanted(tolerations=short)["spec"]["predictor"]["tolerations"] == [
        {"operator": "Exists"},
        {"key": "a", "operator": "Equal", "effect": "NoSchedule", "value": "b"},
        {"key": "a", "operator": "Exists", "effect": "NoExecute"},
        {"key": "a", "operator": "Exists", "effect": "NoSchedule"},
    ]
