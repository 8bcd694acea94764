# SPDX-License-Identifier: GPL-3.0-or-later
"""The faults that the rehearsal cluster can really have: data only.

They were written from the failures that NIM on Kubernetes is known for (KNOWN, by number) before there were rules to
name them. `stage.py` brings them about; docs/diagnosis.md is written from them and from what was then said.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from rehearsal.layout import BRIDGE_ADDRESS, GPUS, PORTS

Object = Mapping[str, Any]

IMAGE = "nvcr.io/nim/meta/llama3-8b-instruct:1.0.0"
IMAGE_1_3 = "nvcr.io/nim/meta/llama-3.1-8b-instruct:1.3.0"
IMAGE_2 = "nvcr.io/nim/meta/llama-3.1-8b-instruct:2.0.12"
NOBODY = "10.213.0.250"  # of the pods' network, and no pod's

KNOWN = {
    1: "wrong, expired or revoked key, for the image",
    2: "pull secret missing, in another namespace, or for another host",
    3: "no subscription",
    4: "no right to this repository",
    5: "not available in this region",
    6: "wrong name or tag",
    7: "registry blocked or slow",
    8: "node's disk full while pulling",
    9: "key missing in the container",
    10: "key with a line break",
    11: "key good for the image, not for the model",
    12: "HF_TOKEN demanded and not there",
    13: "cache mounted read-only",
    14: "cache not writable for the user",
    15: "cache volume full",
    16: "emptyDir cache over its limit, or the node's",
    17: "claim gets no volume",
    18: "volume can't be attached or mounted",
    19: "not enough free GPUs",
    20: "taints",
    21: "node selector fits no node",
    22: "no device plugin",
    23: "RuntimeClass or its handler missing",
    24: "container toolkit not wired",
    25: "driver too old",
    26: "no profile fits",
    27: "GPU in use by something else",
    28: "no room for the KV cache",
    29: "GPU memory too small",
    30: "/dev/shm too small",
    31: "memory limit too low",
    32: "probe ends a slow start",
    33: "rollout's deadline passed",
    34: "proxy missing or wrong",
    35: "certificate not trusted",
    36: "name not found",
    37: "port taken",
    38: "air gap, and a key is set",
    39: "cache copied without its links",
    40: "several GPUs and a read-only cache",
    41: "LoRA, and no profile for it",
    42: "unknown model asked for",
    43: "GPU broken",
    44: "Knative refuses the specification",
}


@dataclass(frozen=True)
class Fault:
    """One fault of one service.

    name: the service's. rows: of KNOWN. cause: what somebody who knows would call it.
    env, container, pod, annotations: laid over BASE; a variable that is None is not there. image, secret: NIM's image,
    and the pull secret of SECRETS ("" for none). place: its namespace, of PLACES. objects: made first; NAME and
    NAMESPACE in them stand for the service's. act: a function of `stage.Acts` that goes on once the service is there.
    alone: a function of `stage.Scenes` that breaks the cluster around the service.
    (`model` in pod takes the place of the containers.)
    slow: nobody waits for it before the next are made.
    """

    name: str
    rows: Sequence[int]
    cause: str
    env: Mapping[str, Any] = field(default_factory=dict)
    container: Object = field(default_factory=dict)
    pod: Object = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    image: str = IMAGE
    secret: str = "ngc-valid"
    place: str = "plain"
    objects: Sequence[Object] = ()
    act: str = ""
    alone: str = ""
    slow: bool = False


# -- what all of them start from

# by name: kind of key, or the key itself; host; user; type
SECRETS: Mapping[str, Mapping[str, str]] = {
    **{f"ngc-{kind}": {"key": kind} for kind in ("valid", "expired", "unentitled", "denied", "blocked")},
    "ngc-wrong": {"key": "nvapi-nobody-has-ever-had-this-key-0000"},
    "ngc-other-host": {"key": "valid", "host": "https://index.docker.io/v1/"},
    "ngc-no-dollar": {"key": "valid", "username": "oauthtoken"},
    "ngc-opaque": {"key": "valid", "type": "Opaque"},
    "ngc-mended": {"key": "expired"},
}

# the variables' secrets: name, entry, kind of key or the value itself
KEY_SECRETS = (
    ("nim-valid", "NGC_API_KEY", "valid"),
    ("nim-expired", "NGC_API_KEY", "expired"),
    ("nim-denied", "NGC_API_KEY", "denied"),
    ("nim-unentitled", "NGC_API_KEY", "unentitled"),
    ("nim-newline", "NGC_API_KEY", "nvapi-with-a-line-break-at-its-end-0000\n"),
    ("nim-other-entry", "NGC_CLI_API_KEY", "valid"),
)

PLACES: Mapping[str, Mapping[str, Any]] = {
    "plain": {},
    "quota": {
        "objects": [
            {
                "apiVersion": "v1",
                "kind": "ResourceQuota",
                "metadata": {"name": "tight", "namespace": "NAMESPACE"},
                "spec": {"hard": {"pods": "0"}},
            }
        ]
    },
    "limits": {
        "objects": [
            {
                "apiVersion": "v1",
                "kind": "LimitRange",
                "metadata": {"name": "tight", "namespace": "NAMESPACE"},
                "spec": {"limits": [{"type": "Container", "max": {"memory": "100Mi"}}]},
            }
        ]
    },
    "restricted": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
    "webhook": {
        "objects": [
            {
                "apiVersion": "admissionregistration.k8s.io/v1",
                "kind": "MutatingWebhookConfiguration",
                "metadata": {"name": "NAMESPACE"},
                "webhooks": [
                    {
                        "name": "inferenceservice.kserve-webhook-server.pod-mutator",
                        "clientConfig": {"url": "https://127.0.0.1:1/mutate-pods"},
                        "rules": [
                            {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}
                        ],
                        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "NAMESPACE"}},
                        "failurePolicy": "Fail",
                        "sideEffects": "None",
                        "admissionReviewVersions": ["v1"],
                        "timeoutSeconds": 2,
                    }
                ],
            }
        ]
    },
}


def key_from(secret: str, entry: str = "NGC_API_KEY") -> Object:
    return {"valueFrom": {"secretKeyRef": {"name": secret, "key": entry}}}


BASE_ENV: Mapping[str, Any] = {"NGC_API_KEY": key_from("nim-valid"), "NIM_STANDIN_LOAD_SECONDS": {"value": "1"}}
_READY = {"httpGet": {"path": "/v1/health/ready", "port": 8000}}
BASE_CONTAINER: Object = {
    "name": "kserve-container",
    "ports": [{"containerPort": 8000, "protocol": "TCP"}],
    "resources": {"requests": {"cpu": "5m", "memory": "16Mi"}, "limits": {"cpu": "1", "memory": "128Mi"}},
    "startupProbe": {**_READY, "periodSeconds": 2, "failureThreshold": 300},
    "readinessProbe": {**_READY, "periodSeconds": 2, "failureThreshold": 1},
}
BASE_POD: Object = {
    "minReplicas": 1,
    "maxReplicas": 1,
    "terminationGracePeriodSeconds": 1,
    "dnsPolicy": "Default",  # else the kubelet tells of each pod, again and again, that there is no cluster DNS
}


# -- fragments


def fails(how: str, **more: Any) -> Mapping[str, Any]:
    """Variables with which the stand-in of NIM fails so, in NIM's words."""
    return {"NIM_STANDIN_FAIL": {"value": how}, **more}


def mounted(volume: Object, read_only: bool = False) -> Mapping[str, Any]:
    """Fields of a Fault: NIM's cache is this volume."""
    return {
        "pod": {"volumes": [{"name": "cache", **volume}]},
        "container": {"volumeMounts": [{"name": "cache", "mountPath": "/mnt/models", "readOnly": read_only}]},
    }


CACHE = {"NIM_CACHE_PATH": {"value": "/mnt/models"}}
ALWAYS = {"imagePullPolicy": "Always"}


def gpus(number: int) -> Object:
    amount = {"nvidia.com/gpu": str(number)}
    base = BASE_CONTAINER["resources"]
    return {"resources": {"requests": {**base["requests"], **amount}, "limits": {**base["limits"], **amount}}}


def limited(kind: str, amount: str) -> Object:
    base = BASE_CONTAINER["resources"]
    return {"resources": {"requests": {**base["requests"], kind: amount}, "limits": {**base["limits"], kind: amount}}}


def claim(storage_class: str, mode: str = "ReadWriteOnce", **more: Any) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "NAME", "namespace": "NAMESPACE"},
        "spec": {
            "accessModes": [mode],
            "storageClassName": storage_class,
            "resources": {"requests": {"storage": "1Gi"}},
            **more,
        },
    }


def storage_class(name: str, mode: str) -> Object:
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": name},
        "provisioner": "nobody.example.com",
        "volumeBindingMode": mode,
    }


def volume(**spec: Any) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": "NAMESPACE-NAME"},
        "spec": {
            "capacity": {"storage": "1Gi"},
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": "",
            "persistentVolumeReclaimPolicy": "Retain",
            "claimRef": {"namespace": "NAMESPACE", "name": "NAME"},
            **spec,
        },
    }


def holder(container: Object = MappingProxyType({}), **pod: Any) -> Object:
    """A pod of somebody else's that is there before the service and has what it wants."""
    program = {"name": "main", "image": IMAGE, "command": ["/usr/bin/python3", "-c", "import time; time.sleep(3600)"]}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "NAME-holder", "namespace": "NAMESPACE"},
        "spec": {
            "containers": [{**program, **container}],
            "imagePullSecrets": [{"name": "ngc-valid"}],
            "terminationGracePeriodSeconds": 1,
            **pod,
        },
    }


CLAIMED = {"persistentVolumeClaim": {"claimName": "NAME"}}
_ZONE = {"matchExpressions": [{"key": "topology.kubernetes.io/zone", "operator": "In", "values": ["zone-b"]}]}


def ingress(name: str, ingress_class: str) -> Object:
    """As nim_kserve makes it for a service with endpoint_host."""
    backend = {"service": {"name": "NAME-predictor", "port": {"number": 80}}}
    paths = [{"path": "/", "pathType": "Prefix", "backend": backend}]
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "Ingress",
        "metadata": {"name": name, "namespace": "NAMESPACE", "labels": {"gpuops.nim/service": "NAME"}},
        "spec": {"ingressClassName": ingress_class, "rules": [{"host": "NAME.example.com", "http": {"paths": paths}}]},
    }


def _no_executable(content: str) -> Mapping[str, Any]:
    """Fields of a Fault: the container's program is this file."""
    config = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "NAME", "namespace": "NAMESPACE"},
        "data": {"nim": content},
    }
    return {
        "objects": [config],
        "pod": {"volumes": [{"name": "program", "configMap": {"name": "NAME", "defaultMode": 0o755}}]},
        "container": {
            "command": ["/opt/other/nim"],
            "volumeMounts": [{"name": "program", "mountPath": "/opt/other"}],
        },
    }


# -- the faults
PULL = (
    Fault("key-expired", [1], "NGC refuses the key of the pull secret (401)", secret="ngc-expired", container=ALWAYS),
    Fault("key-wrong", [1], "NGC refuses the key of the pull secret (401)", secret="ngc-wrong", container=ALWAYS),
    Fault("key-unentitled", [3], "the account has no subscription (402)", secret="ngc-unentitled", container=ALWAYS),
    Fault("key-denied", [4], "the key has no right to this repository (403)", secret="ngc-denied", container=ALWAYS),
    Fault("key-blocked", [5], "not available in this region (451)", secret="ngc-blocked", container=ALWAYS),
    Fault("secret-missing", [2], "the pull secret does not exist", secret="ngc-nowhere", container=ALWAYS),
    Fault("secret-none", [2], "no pull secret is given at all", secret="", container=ALWAYS),
    Fault("secret-other-host", [2], "the pull secret is for another host", secret="ngc-other-host", container=ALWAYS),
    Fault("secret-opaque", [2], "the pull secret is of the wrong type", secret="ngc-opaque", container=ALWAYS),
    Fault(
        "secret-no-dollar",
        [1, 2],
        "NGC refuses the login of the pull secret (its user must be $oauthtoken)",
        secret="ngc-no-dollar",
        container=ALWAYS,
    ),
    Fault("tag-wrong", [6], "there is no such tag", image=IMAGE.replace("1.0.0", "1.0.9")),
    Fault("name-wrong", [6], "there is no such image", image=IMAGE.replace("llama3-8b", "llama-3-8b")),
    Fault("name-invalid", [6], "that is no image name", image="nvcr.io/nim/meta/Llama3-8b-instruct:1.0.0"),
    Fault(
        "never-pulled",
        [],
        "the image is not on the node and its pull policy forbids to fetch it",
        image=IMAGE.replace("1.0.0", "1.0.8"),
        container={"imagePullPolicy": "Never"},
    ),
    Fault(
        "registry-ca",
        [35],
        "the node does not trust the registry's certificate",
        image=IMAGE.replace("nvcr.io", f"{BRIDGE_ADDRESS}:{PORTS['ngc']}"),
    ),
    Fault("registry-name", [36], "the registry's name is not found", image=IMAGE.replace("nvcr.io", "nvcr.invalid")),
    Fault("registry-away", [7], "the registry can't be reached", image=IMAGE.replace("nvcr.io", f"{NOBODY}:443")),
    Fault(
        "registry-closed",
        [7],
        "the registry refuses connections",
        image=IMAGE.replace("nvcr.io", f"{BRIDGE_ADDRESS}:1"),
    ),
    Fault(
        "backoff-outlives",
        [1],
        "the pull secret has been repaired since; the pod's back-off still waits",
        secret="ngc-mended",
        container=ALWAYS,
        act="mend_secret",
        slow=True,
    ),
)

START = (
    Fault("key-unset", [9], "the container has no NGC_API_KEY", env={"NGC_API_KEY": None}),
    Fault("key-entry", [9], "the secret has no entry of this name", env={"NGC_API_KEY": key_from("nim-other-entry")}),
    Fault("key-secret", [9], "the key's secret does not exist", env={"NGC_API_KEY": key_from("nim-nowhere")}),
    Fault("hf-token", [12], "HF_TOKEN is demanded and not there", env={"HF_TOKEN": key_from("nim-valid", "HF_TOKEN")}),
    Fault("key-newline", [10], "the key has a line break", env={"NGC_API_KEY": key_from("nim-newline")}),
    Fault("model-expired", [11], "NGC refuses the key at the model", env={"NGC_API_KEY": key_from("nim-expired")}),
    Fault("model-denied", [11], "the key has no right to the model", env={"NGC_API_KEY": key_from("nim-denied")}),
    Fault(
        "model-unentitled",
        [11, 3],
        "the account has no subscription for the model",
        env={"NGC_API_KEY": key_from("nim-unentitled")},
    ),
    Fault("read-only", [13], "the cache is mounted read-only", env=CACHE, **mounted({"emptyDir": {}}, True)),
    Fault(
        "read-only-1-3",
        [13],
        "the cache is mounted read-only",
        image=IMAGE_1_3,
        env=CACHE,
        **mounted({"emptyDir": {}}, True),
    ),
    Fault(
        "not-writable",
        [14],
        "the cache belongs to another user",
        env=CACHE,
        objects=[claim("rehearsal")],
        **mounted(CLAIMED),
    ),
    Fault(
        "not-writable-2",
        [14],
        "the cache belongs to another user",
        image=IMAGE_2,
        env=CACHE,
        objects=[claim("rehearsal")],
        **mounted(CLAIMED),
    ),
    Fault(
        "cache-full",
        [15],
        "the cache volume is too small",
        env=CACHE,
        **mounted({"emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}),
    ),
    Fault(
        "cache-evicted",
        [16],
        "the emptyDir grew over its sizeLimit, so the pod was evicted",
        env=fails("hang", **CACHE),
        slow=True,
        **mounted({"emptyDir": {"sizeLimit": "1Mi"}}),
    ),
    Fault("nvml", [24], "the container toolkit does not bring the GPU in", env=fails("nvml")),
    Fault("driver", [25], "the node's driver is too old", env=fails("driver")),
    Fault("profile", [26], "no profile fits the GPU", env=fails("profile")),
    Fault("profile-2", [26], "no profile fits the GPU", image=IMAGE_2, env=fails("profile")),
    Fault(
        "profile-unknown",
        [26],
        "NIM_MODEL_PROFILE names none of the image's profiles",
        env={"NIM_MODEL_PROFILE": {"value": "0123456789abcdef" * 4}},
    ),
    Fault("gpu-busy", [27], "something else has the GPU's memory", env=fails("gpu-busy")),
    Fault("kv-cache", [28], "the context is too long for the KV cache", env=fails("kv-cache")),
    Fault("kv-cache-2", [28], "the context is too long for the KV cache", image=IMAGE_2, env=fails("kv-cache")),
    Fault("kv-cache-none", [28], "no memory is left for the KV cache", env=fails("kv-cache-none")),
    Fault("cuda-oom", [29], "the GPU's memory is too small", env=fails("cuda-oom")),
    Fault("trt-oom", [29], "the GPU's memory is too small", env=fails("trt-oom")),
    Fault("shm", [30], "/dev/shm is too small", env=fails("nccl-shm")),
    Fault("shm-bus", [30], "/dev/shm is too small", env=fails("bus-error")),
    Fault("memory", [31], "the memory limit is too low", env=fails("oom"), container=limited("memory", "64Mi")),
    Fault(
        "startup-probe",
        [32],
        "the startup probe ends a slow start",
        env=fails("slow:600"),
        container={"startupProbe": {**_READY, "periodSeconds": 1, "failureThreshold": 8}},
    ),
    Fault(
        "liveness-probe",
        [32],
        "the liveness probe ends a slow start",
        env=fails("slow:600"),
        container={
            "startupProbe": None,
            "livenessProbe": {**_READY, "initialDelaySeconds": 4, "periodSeconds": 1, "failureThreshold": 3},
        },
    ),
    Fault(
        "probe-path",
        [],
        "the probe asks for a path that NIM does not have",
        container={
            "startupProbe": None,
            "readinessProbe": {"httpGet": {"path": "/ready", "port": 8000}, "periodSeconds": 2},
        },
    ),
    Fault("proxy", [34], "the proxy refuses", env=fails("proxy")),
    Fault("ca", [35], "NIM does not trust the certificate", env=fails("ca")),
    Fault("dns", [36], "api.ngc.nvidia.com is not found", env=fails("dns")),
    Fault(
        "air-gap",
        [38, 34],
        "NGC can't be reached from the pod, and a key is set",
        env={"NIM_STANDIN_NGC_URL": {"value": f"https://{NOBODY}"}, "NIM_STANDIN_FAIL": {"value": ""}},
    ),
    Fault("port", [37], "the port is taken", env=fails("port-conflict")),
    Fault("port-2", [37], "the port is taken", image=IMAGE_2, env=fails("port-conflict")),
    Fault("links-lost", [39], "the cache was copied without its links", env=fails("links-lost")),
    Fault("p2p-cache", [40], "several GPUs and a read-only cache", image=IMAGE_1_3, env=fails("p2p-cache")),
    Fault(
        "lora", [41], "no profile of the image takes adapters", env=fails("lora", NIM_PEFT_SOURCE={"value": "/loras"})
    ),
    Fault("ecc", [43], "the GPU is broken", env=fails("ecc")),
    Fault("xid", [43], "the GPU fails at the first inference", env=fails("xid"), act="ask"),
    Fault("exec-format", [], "the image is for another processor", **_no_executable("of another processor\n")),
    Fault("no-program", [], "the command is not in the image", container={"command": ["nim-serve"]}),
    Fault(
        "as-root",
        [],
        "the pod must not run as root, and it would",
        pod={"securityContext": {"runAsNonRoot": True, "runAsUser": 0}},
    ),
    Fault(
        "init-fails",
        [],
        "an init container fails",
        pod={
            "initContainers": [
                {"name": "trust", "image": IMAGE, "command": ["/bin/sh", "-c", "echo no certificates there; exit 3"]}
            ]
        },
    ),
    Fault("unknown-crash", [], "unknown: the program ends with an error of its own", env=fails("crash")),
)

PLACEMENT = (
    Fault("gpus-too-many", [19], "no node has so many GPUs", container=gpus(4 * GPUS)),
    Fault("memory-too-much", [], "no node has so much memory", container=limited("memory", "8Ti")),
    Fault("selector", [21], "no node has the label", pod={"nodeSelector": {"nvidia.com/gpu.product": "NVIDIA-H200"}}),
    Fault("mig", [22], "no node offers this kind of GPU", container=limited("nvidia.com/mig-1g.10gb", "1")),
    Fault(
        "claim-no-class", [17], "there is no such storage class", objects=[claim("no-such-class")], **mounted(CLAIMED)
    ),
    Fault(
        "claim-nobody",
        [17],
        "nobody provides volumes of this class",
        objects=[storage_class("NAMESPACE-nobody", "Immediate"), claim("NAMESPACE-nobody")],
        **mounted(CLAIMED),
    ),
    Fault(
        "claim-no-volume",
        [17],
        "no volume fits the claim, and no class makes one",
        objects=[claim("", volumeName="NAMESPACE-nothing")],
        **mounted(CLAIMED),
    ),
    Fault("claim-missing", [17], "the claim does not exist", **mounted(CLAIMED)),
    Fault(
        "claim-zone",
        [17],
        "the volume is in another zone",
        objects=[
            volume(hostPath={"path": "/tmp"}, nodeAffinity={"required": {"nodeSelectorTerms": [_ZONE]}}),
            claim("", volumeName="NAMESPACE-NAME"),
        ],
        **mounted(CLAIMED),
    ),
    Fault(
        "claim-taken",
        [18],
        "another pod has the ReadWriteOncePod volume",
        objects=[
            claim("rehearsal", "ReadWriteOncePod"),
            holder(volumes=[{"name": "cache", "persistentVolumeClaim": {"claimName": "NAME"}}]),
        ],
        **mounted(CLAIMED),
    ),
    Fault(
        "mount-nfs",
        [18],
        "the NFS server can't be mounted",
        objects=[volume(nfs={"server": NOBODY, "path": "/models"}), claim("", volumeName="NAMESPACE-NAME")],
        **mounted(CLAIMED),
    ),
    Fault("mount-config", [18], "the ConfigMap does not exist", **mounted({"configMap": {"name": "NAME"}})),
    Fault(
        "mount-folder",
        [18],
        "the node has no such folder",
        **mounted({"hostPath": {"path": "/nowhere/models", "type": "Directory"}}),
    ),
    Fault("runtime-class", [23], "there is no such RuntimeClass", pod={"runtimeClassName": "NAMESPACE-nowhere"}),
    Fault(
        "runtime-handler",
        [23],
        "the node's containerd has no such runtime",
        objects=[
            {
                "apiVersion": "node.k8s.io/v1",
                "kind": "RuntimeClass",
                "metadata": {"name": "NAMESPACE-nvidia"},
                "handler": "nvidia",
            }
        ],
        pod={"runtimeClassName": "NAMESPACE-nvidia"},
    ),
    Fault("priority", [], "there is no such PriorityClass", pod={"priorityClassName": "nowhere"}),
    Fault("account", [], "there is no such ServiceAccount", pod={"serviceAccountName": "nowhere"}),
    Fault("quota", [], "the namespace's quota is used up", place="quota"),
    Fault("limits", [], "a LimitRange forbids so much memory", place="limits"),
    Fault("restricted", [], "Pod Security forbids the pod", place="restricted"),
    Fault("webhook", [], "the webhook that pods must pass is down", place="webhook"),
    Fault("gpu-holder", [19], "another pod holds the GPUs", container=gpus(GPUS), objects=[holder(gpus(GPUS))]),
    Fault(
        "no-runtime",
        [],
        "no ServingRuntime fits",
        pod={"model": {"modelFormat": {"name": "nvidia-nim-llama3-8b-instruct"}}},
    ),
)

SERVING = (
    Fault("ready-crashing", [], "ready between crashes", env=fails("crash-after:6"), slow=True),
    Fault("unhealthy", [], "unknown: NIM is not ready any more and does not say why", env=fails("unhealthy-after:3")),
    Fault("old-serves", [6], "the new revision fails (no such tag), the old one still serves", act="new_tag"),
    Fault(
        "hpa",
        [],
        "no metrics server, so the autoscaler does nothing",
        annotations={"serving.kserve.io/autoscalerClass": "hpa"},
        pod={"maxReplicas": 2, "scaleMetric": "cpu", "scaleTarget": 60},
        slow=True,
    ),
    Fault(
        "ingress-class",
        [],
        "the Ingress names a class that does not exist",
        objects=[ingress("NAME-endpoint", "nowhere")],
    ),
    Fault(
        "ingress-nobody",
        [],
        "no controller serves the Ingress's class",
        objects=[
            {
                "apiVersion": "networking.k8s.io/v1",
                "kind": "IngressClass",
                "metadata": {"name": "NAMESPACE-nobody"},
                "spec": {"controller": "nobody.example.com/none"},
            },
            ingress("NAME-endpoint", "NAMESPACE-nobody"),
        ],
        slow=True,
    ),
    Fault(
        "fight-deployment", [], "somebody edits the Deployment and KServe undoes it", act="edit_deployment", slow=True
    ),
    Fault("fight-service", [], "two managers set the same field in turn", act="edit_service", slow=True),
)

# each line breaks the cluster in ways that don't touch each other
SCENES = (
    (Fault("tainted", [20], "the only node has a taint that is not tolerated", alone="taint"),),
    (Fault("cordoned", [20], "the only node is cordoned", alone="cordon"),),
    (
        Fault("no-plugin", [22], "no node offers GPUs", container=gpus(1), alone="no_device_plugin"),
        Fault("ngc-429", [7], "the registry limits its requests", container=ALWAYS, alone="registry_429"),
    ),
    (
        Fault("gpu-old-pod", [19], "the service's old pod holds the GPUs", container=gpus(GPUS), alone="surge"),
        Fault("ngc-500", [7], "the registry is out of order", container=ALWAYS, alone="registry_500"),
    ),
    (
        Fault("ngc-hangs", [7], "the registry does not answer", container=ALWAYS, alone="registry_hangs"),
        Fault("no-kserve", [], "KServe's controller does not act", act="delete_deployment", alone="no_kserve"),
        Fault("endpoints", [], "the Service selects no pod", act="empty_service", alone="no_kserve"),
    ),
    (Fault("no-scheduler", [], "the scheduler does not act", alone="no_scheduler"),),
    (Fault("no-controllers", [], "the controller manager does not act", alone="no_controllers"),),
    (Fault("node-lost", [], "the node does not answer", alone="node_lost"),),
)

# what is slow comes early; a third of the containers that end is as much as two cores start at once
_THIRD = -(-len(START) // 3)
WAVES = ((*PULL, *SERVING), (*PLACEMENT, *START[:_THIRD]), START[_THIRD : 2 * _THIRD], START[2 * _THIRD :])
FAULTS = (*PULL, *START, *PLACEMENT, *SERVING, *(fault for scene in SCENES for fault in scene))
