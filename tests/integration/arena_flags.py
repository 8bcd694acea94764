# SPDX-License-Identifier: GPL-3.0-or-later
"""Every flag of `arena serve kserve`, the option that stands for it, and what a cluster has then.

docs/arena.md is written from this (`python tests/integration/arena_flags.py`), and test_arena_flags.py deploys it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[2] / "docs" / "arena.md"
IMAGE = "nvcr.io/nim/meta/llama3-8b-instruct:1.0.0"


@dataclass(frozen=True)
class Flag:
    """One row.

    flag: as arena has it; option: its name here; given: an example in arena's spelling, as it works here.
    has: what there is then, by place: isvc, pod, container (NIM's, in the pod), hpa, service, servicemonitor, ...;
    NAME and NAMESPACE stand for the service's. refused: the words of the error, where there is nothing to have.
    service: which of the test's services shows it. note: what is better, or different.
    """

    flag: str
    option: str
    given: Mapping[str, Any]
    has: Mapping[str, Any] = field(default_factory=dict)
    refused: str = ""
    service: str = "many"
    note: str = ""


def _both(name: str, value: str) -> dict[str, Any]:
    return {"container": {"resources": {"requests": {name: value}, "limits": {name: value}}}}


def _env(name: str, **more: Any) -> dict[str, Any]:
    return {"container": {"env": [{"name": name, **more}]}}


FLAGS = (
    Flag(
        "--name (once --servingName)",
        "name",
        {"name": "NAME"},
        {"isvc": {"metadata": {"name": "NAME"}}},
        note="checked against the rules of KServe, its host name too, before anything is sent",
    ),
    Flag(
        "--namespace, -n",
        "namespace",
        {"namespace": "NAMESPACE"},
        {"isvc": {"metadata": {"namespace": "NAMESPACE"}}},
        note="create_namespace makes it",
    ),
    Flag(
        "--version (once --servingVersion)",
        "version",
        {"version": "v1"},
        refused="the release is the tag of image",
    ),
    Flag("--image", "image", {"image": IMAGE}, {"container": {"image": IMAGE}}),
    Flag(
        "--image-pull-policy (once --imagePullPolicy)",
        "image_pull_policy",
        {"image_pull_policy": "IfNotPresent"},
        {"container": {"imagePullPolicy": "IfNotPresent"}},
        note="Kubernetes' own default, by the tag, if not set",
    ),
    Flag(
        "--image-pull-secret (repeat)",
        "image_pull_secrets",
        {"image_pull_secret": ["ngc-secret", "other"]},
        {"pod": {"imagePullSecrets": [{"name": "ngc-secret"}, {"name": "other"}]}},
        note="ngc-secret if not set; nim_secret makes it",
    ),
    Flag(
        "--gpus",
        "gpus",
        {"gpus": 1},
        _both("nvidia.com/gpu", "1"),
        note="1 if not set. 0 sets no NVIDIA_VISIBLE_DEVICES=void; gpu_resource for MIG",
    ),
    Flag(
        "--device (repeat)",
        "devices",
        {"device": "rdma/hca=1"},
        _both("rdma/hca", "1"),
        note="also as a dictionary. As request, too; a GPU among them makes gpus 0, and none is hidden",
    ),
    Flag("--gpumemory", "gpu_memory", {"gpumemory": 8}, _both("aliyun.com/gpu-mem", "8"), service="share"),
    Flag(
        "--gpucore",
        "gpu_core",
        {"gpucore": 50},
        _both("aliyun.com/gpu-core.percentage", "50"),
        service="share",
        note="beside whole GPUs both are an error",
    ),
    Flag("--cpu", "cpu", {"cpu": "50m"}, _both("cpu", "50m"), note="8 if not set; KServe would take 1"),
    Flag(
        "--memory",
        "memory",
        {"memory": "128Mi"},
        _both("memory", "128Mi"),
        note="32Gi if not set; KServe would take 2Gi, which no NIM survives",
    ),
    Flag(
        "--share-memory",
        "share_memory",
        {"share_memory": "16Mi"},
        {
            "pod": {"volumes": [{"name": "dshm", "emptyDir": {"medium": "Memory", "sizeLimit": "16Mi"}}]},
            "container": {"volumeMounts": [{"name": "dshm", "mountPath": "/dev/shm"}]},
        },
        note="16Gi if not set; a warning where it fills the memory limit",
    ),
    Flag(
        "--port",
        "port",
        {"port": 9000},
        {
            "container": {
                "ports": [{"name": "http", "containerPort": 9000, "protocol": "TCP"}],
                "env": [{"name": "NIM_SERVER_PORT", "value": "9000"}],
            }
        },
        note="8000 if not set; NIM is told of another, the port has a name, the probes ask NIM and not only the port",
    ),
    Flag(
        "--security-context (repeat)",
        "security_context",
        {"security_context": "runAsUser=1000"},
        {"pod": {"securityContext": {"runAsUser": 1000}}},
        note="{fsGroup: 1000} if not set, so that NIM needs no root",
    ),
    Flag(
        "--annotation, -a (repeat)",
        "annotations",
        {"annotation": "example.com/owner=us"},
        {
            "isvc": {"metadata": {"annotations": {"example.com/owner": "us"}}},
            "pod metadata": {"annotations": {"example.com/owner": "us"}},
        },
        note="serving.kserve.io/autoscalerClass is autoscaler_class, ...deploymentMode is deployment_mode",
    ),
    Flag(
        "--label, -l (repeat)",
        "labels",
        {"label": "team=llm"},
        {"isvc": {"metadata": {"labels": {"team": "llm"}}}, "pod metadata": {"labels": {"team": "llm"}}},
    ),
    Flag(
        "--env, -e (repeat)",
        "env",
        {"env": {"NIM_LOG_LEVEL": 'a "quoted" text'}},
        _env("NIM_LOG_LEVEL", value='a "quoted" text'),
        note="any text, quotes and new lines as well",
    ),
    Flag(
        "--env-from-secret (repeat)",
        "env_from_secret",
        {"env_from_secret": {"NGC_API_KEY": "nvidia-nim-secrets", "HF_TOKEN": {"secret": "hub", "key": "token"}}},
        {
            "container": {
                "env": [
                    {
                        "name": "NGC_API_KEY",
                        "valueFrom": {"secretKeyRef": {"name": "nvidia-nim-secrets", "key": "NGC_API_KEY"}},
                    },
                    {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}}},
                ]
            }
        },
        note="the key in the Secret may have another name",
    ),
    Flag(
        "--data, -d (repeat)",
        "data",
        {"data": ["models:/data", {"claim": "models", "path": "/lora", "sub_path": "lora", "read_only": True}]},
        {
            "pod": {"volumes": [{"name": "models", "persistentVolumeClaim": {"claimName": "models"}}]},
            "container": {
                "volumeMounts": [
                    {"name": "models", "mountPath": "/data"},
                    {"name": "models", "mountPath": "/lora", "subPath": "lora", "readOnly": True},
                ]
            },
        },
        note="a claim may stand twice; for the model files take cache, which makes the claim and tells NIM",
    ),
    Flag(
        "--data-subpath-expr",
        "data_subpath_expr",
        {"data_subpath_expr": "models:$(POD)"},
        refused="set sub_path_expr in the entry of data",
    ),
    Flag("--data-dir", "data_dir", {"data_dir": "/models:/models"}, refused="use cache or data"),
    Flag(
        "--temp-dir (repeat)",
        "temp_dirs",
        {"temp_dir": ["scratch:/scratch", {"name": "fast", "path": "/fast", "size": "16Mi", "medium": "Memory"}]},
        {
            "pod": {
                "volumes": [
                    {"name": "scratch", "emptyDir": {}},
                    {"name": "fast", "emptyDir": {"medium": "Memory", "sizeLimit": "16Mi"}},
                ]
            },
            "container": {
                "volumeMounts": [
                    {"name": "scratch", "mountPath": "/scratch"},
                    {"name": "fast", "mountPath": "/fast"},
                ]
            },
        },
    ),
    Flag(
        "--temp-dir-subpath-expr",
        "temp_dir_subpath_expr",
        {"temp_dir_subpath_expr": "scratch:$(POD)"},
        refused="leave it out",
    ),
    Flag(
        "--config-file (repeat)",
        "config_files",
        {"config_file": [{"path": "/etc/nim/extra.yaml", "content": "a: 1\n"}]},
        {
            "configmap": {"metadata": {"name": "NAME-files"}, "data": {"etc.nim.extra.yaml": "a: 1\n"}},
            "pod": {"volumes": [{"name": "nim-files", "configMap": {"name": "NAME-files"}}]},
            "container": {
                "volumeMounts": [
                    {"name": "nim-files", "mountPath": "/etc/nim/extra.yaml", "subPath": "etc.nim.extra.yaml"}
                ]
            },
        },
        note="arena never makes the ConfigMap that it mounts, so its pods wait for ever; a new content starts new pods",
    ),
    Flag(
        "--command, or words at the end",
        "command",
        {"command": "exec python3 -I -S /opt/nim/nim.py # all of it"},
        {"container": {"command": ["bash", "-c", "exec python3 -I -S /opt/nim/nim.py # all of it"]}},
        note="any text; a list is taken word by word, and arguments is there, too",
    ),
    Flag("--shell", "shell", {"shell": "bash"}, {"container": {"command": ["bash"]}}, note="sh if not set"),
    Flag(
        "--toleration (repeat)",
        "tolerations",
        {"toleration": ["gpu=true:NoSchedule,Equal", "all", {"key": "spot", "operator": "Exists"}]},
        {
            "pod": {
                "tolerations": [
                    {"key": "gpu", "operator": "Equal", "value": "true", "effect": "NoSchedule"},
                    {"operator": "Exists"},
                    {"key": "spot", "operator": "Exists"},
                ]
            }
        },
        note="what can't be read is an error; arena leaves it out without a word",
    ),
    Flag(
        "--selector (repeat)",
        "node_selector",
        {"selector": {"example.com/gpu": "h200"}},
        {"pod": {"nodeSelector": {"example.com/gpu": "h200"}}},
    ),
    Flag(
        "--affinity-policy",
        "affinity_policy",
        {"affinity_policy": "spread"},
        {
            "pod": {
                "affinity": {
                    "podAntiAffinity": {
                        "requiredDuringSchedulingIgnoredDuringExecution": [
                            {
                                "labelSelector": {"matchLabels": {"serving.kserve.io/inferenceservice": "NAME"}},
                                "topologyKey": "kubernetes.io/hostname",
                            }
                        ]
                    }
                }
            }
        },
        note="affinity and topology_spread_constraints for all else",
    ),
    Flag(
        "--affinity-constraint",
        "affinity_constraint",
        {"affinity_constraint": "required"},
        {"pod": {"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{}]}}}},
    ),
    Flag(
        "--min-replicas",
        "min_replicas",
        {"min_replicas": 1},
        {"isvc": {"spec": {"predictor": {"minReplicas": 1}}}},
        note="0 only with autoscaler_class: keda; anything else would never start it again",
    ),
    Flag(
        "--max-replicas",
        "max_replicas",
        {"max_replicas": 2},
        {"isvc": {"spec": {"predictor": {"maxReplicas": 2}}}},
        note="an error where nothing would ever scale",
    ),
    Flag(
        "--scale-metric cpu, memory",
        "scale_metric",
        {"scale_metric": "CPU"},
        {
            "isvc": {
                "metadata": {"annotations": {"serving.kserve.io/autoscalerClass": "hpa"}},
                "spec": {"predictor": {"scaleMetric": "cpu"}},
            },
        },
        note="in any case; rps and concurrency are Knative's and an error",
    ),
    Flag(
        "--scale-target",
        "scale_target",
        {"scale_target": 70},
        {"isvc": {"spec": {"predictor": {"scaleTarget": 70}}}},
    ),
    Flag(
        "--scale-metric, another one",
        "scale_metric",
        {"scale_metric": "num_requests_waiting", "scale_target": 10, "max_replicas": 3},
        {
            "isvc": {"metadata": {"annotations": {"serving.kserve.io/autoscalerClass": "external"}}},
            "hpa": {
                "metadata": {"name": "NAME-hpa"},
                "spec": {
                    "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "NAME-predictor"},
                    "minReplicas": 1,
                    "maxReplicas": 3,
                    "metrics": [
                        {
                            "type": "Pods",
                            "pods": {
                                "metric": {"name": "num_requests_waiting"},
                                "target": {"type": "AverageValue", "averageValue": "10"},
                            },
                        }
                    ],
                },
            },
        },
        service="share",
        note="several metrics, and how fast it goes: autoscaling",
    ),
    Flag(
        "--container-concurrency",
        "container_concurrency",
        {"container_concurrency": 4},
        refused="scale on them with scale_metric",
    ),
    Flag("--timeout", "timeout", {"timeout": 120}, {"isvc": {"spec": {"predictor": {"timeout": 120}}}}),
    Flag(
        "--canary-traffic-percent",
        "canary_traffic_percent",
        {"canary_traffic_percent": 10},
        refused="deploy the new release as a service of its own",
    ),
    Flag(
        "--model-format",
        "model_format",
        {"model_format": "nvidia-nim-llama3-8b-instruct:1"},
        {
            "isvc": {
                "spec": {
                    "predictor": {"model": {"modelFormat": {"name": "nvidia-nim-llama3-8b-instruct", "version": "1"}}}
                }
            },
            "container": {"livenessProbe": {"httpGet": {"path": "/v1/health/live"}}},
        },
        service="runtime",
        note="all other options work there, too",
    ),
    Flag(
        "--runtime",
        "runtime",
        {"runtime": "nim"},
        {
            "isvc": {"spec": {"predictor": {"model": {"runtime": "nim"}}}},
            "container": {"env": [{"name": "OF_THE_RUNTIME", "value": "yes"}]},
        },
        service="runtime",
        note="without model_format an error",
    ),
    Flag(
        "--runtime-version",
        "runtime_version",
        {"runtime_version": "1.0.3"},
        {"container": {"image": "nvcr.io/nim/meta/llama3-8b-instruct:1.0.3"}},
        service="runtime",
    ),
    Flag(
        "--storage-uri",
        "storage_uri",
        {"storage_uri": "pvc://models/"},
        {
            "isvc": {"metadata": {"annotations": {"storage.kserve.io/readonly": "false"}}},
            "pod": {"volumes": [{"name": "kserve-pvc-source", "persistentVolumeClaim": {"claimName": "models"}}]},
            "container": {"volumeMounts": [{"name": "kserve-pvc-source", "mountPath": "/mnt/models"}]},
        },
        service="runtime",
        note="a claim is mounted writable, as NIM needs it",
    ),
    Flag(
        "--protocol-version",
        "protocol_version",
        {"protocol_version": "openai"},
        {"isvc": {"spec": {"predictor": {"model": {"protocolVersion": "openai"}}}}},
        service="runtime",
    ),
    Flag(
        "--enable-prometheus",
        "enable_prometheus",
        {"enable_prometheus": True},
        {
            "service": {"metadata": {"name": "NAME-metric-svc"}, "spec": {"ports": [{"name": "metric"}]}},
            "servicemonitor": {
                "metadata": {"name": "NAME-svcmonitor", "annotations": {"arms.prometheus.io/discovery": "true"}},
                "spec": {"endpoints": [{"port": "metric", "path": "/metrics", "interval": "15s"}]},
            },
        },
        note="the path is that of the NIM release; without the Prometheus operator a warning; monitor, monitor_labels",
    ),
    Flag(
        "--metrics-port",
        "metrics_port",
        {"metrics_port": 9000},
        {"service": {"spec": {"ports": [{"name": "metric", "port": 9000, "targetPort": 9000}]}}},
        note="port if not set",
    ),
    Flag(
        "--model-name",
        "model_name",
        {"model_name": "llama3"},
        {"isvc": {"metadata": {"labels": {"modelName": "llama3"}}}},
        note="a label alone; the id in requests is NIM's",
    ),
    Flag(
        "--model-version",
        "model_version",
        {"model_version": "1"},
        {"isvc": {"metadata": {"labels": {"modelVersion": "1"}}}},
    ),
    Flag(
        "--replicas",
        "min_replicas",
        {"replicas": 1},
        {"isvc": {"spec": {"predictor": {"minReplicas": 1}}}, "deployment": {"spec": {"replicas": 1}}},
        service="share",
        note="works; in arena it has no effect",
    ),
    Flag(
        "--enable-istio (once --enableIstio)",
        "enable_istio",
        {"enable_istio": True},
        refused="Istio belongs to the cluster",
    ),
    Flag(
        "--expose-service (once --exposeService)", "expose_service", {"expose_service": True}, refused="endpoint_host"
    ),
)

_HEAD = """\
<!-- Written by `python tests/integration/arena_flags.py`. Change that file, not this one. -->
# From arena to gpuops.nim

`gpuops.nim.nim_kserve` has an option for every flag of `arena serve kserve` (0.15). Arena's names work, with
underscores for dashes; the names in the first column of options are those of the documentation. What has no effect in
arena, or none without Knative, is an error that says what to use.

| arena | here |
|---|---|
| `arena serve kserve` | `nim_kserve`; again it changes what differs, and waits until the model answers |
| `arena serve delete NAME` | `nim_kserve` with `state: absent`; waits for the pods, keeps claims and secrets |
| `arena serve update kserve` | `nim_kserve` with the new values |
| `arena serve list`, `get`, `logs` | the result of `nim_kserve`; `kubectl get inferenceservices`, `kubectl logs` |
| services that arena made | `adopt: true` takes them over |
| `--config` | `kubeconfig`, or `K8S_AUTH_KUBECONFIG` |
| `--arena-namespace`, `--helm-binary`, `--pprof`, `--trace` | nothing; they are for arena's own machinery |
| `--loglevel` | `-v` |

"""


def _row(flag: Flag) -> str:
    given = f"`{_line(flag.given)}`"
    if flag.refused:
        has = f"an error: {flag.refused}"
    else:
        has = "<br>".join(f"{place} `{_line(fragment)}`" for place, fragment in flag.has.items())
    return f"| `{flag.flag}` | `{flag.option}` | {given} | {has} | {flag.note} |".replace("|  |", "| |")


def _line(value: Any) -> str:
    return json.dumps(value).replace("|", "\\|")


def page() -> str:
    rows = "\n".join(_row(flag) for flag in FLAGS)
    return f"{_HEAD}| flag | option | for example | what there is then | |\n|---|---|---|---|---|\n{rows}\n"


if __name__ == "__main__":
    PAGE.write_text(page())
