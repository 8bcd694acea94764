# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""What is sent to the cluster: plain dictionaries, the same for the same input.

Nothing here depends on the time or on a hash: KServe copies the labels and annotations of an InferenceService into its
pods, so a value that changes would restart the model.
"""

from __future__ import annotations

import base64
import copy
import json
from collections.abc import Mapping, Sequence
from typing import Any

from . import contract, patch
from .spec import CACHE_VOLUME, CONTAINER, MODE_ANNOTATION, PREFIX, SCALER_ANNOTATION, SHM_VOLUME, ServiceSpec

Object = dict[str, Any]

API_VERSION = "serving.kserve.io/v1beta1"
KIND = "InferenceService"
INGRESS_API_VERSION = "networking.k8s.io/v1"
MONITOR_API_VERSION = "monitoring.coreos.com/v1"
SERVICE_LABEL = PREFIX + "service"  # says to which service an extra object belongs
SALT_ANNOTATION = PREFIX + "salt"
ISVC_LABEL = "serving.kserve.io/inferenceservice"

PORT_NAME = "http"
METRICS_PORT_NAME = "metric"
PROBE_PERIOD = 2  # seconds; how late startup, and then readiness, may notice the end of a load


def namespace(name: str) -> Object:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}


def pull_secret(name: str, namespace: str, auths: Sequence[tuple[str, str, str]], salt: str) -> Object:
    """Return the ``kubernetes.io/dockerconfigjson`` Secret; ``auths``: host, user and password of each registry."""
    config = {
        "auths": {
            host: {"username": username, "password": password, "auth": _base64(f"{username}:{password}")}
            for host, username, password in sorted(auths)
        }
    }
    values = {".dockerconfigjson": json.dumps(config, separators=(",", ":"), sort_keys=True)}
    return _secret(name, namespace, "kubernetes.io/dockerconfigjson", values, salt)


def runtime_secret(name: str, namespace: str, values: Mapping[str, str], salt: str) -> Object:
    """Return the ``Opaque`` Secret whose keys become environment variables of the containers."""
    return _secret(name, namespace, "Opaque", values, salt)


def _secret(name: str, namespace: str, kind: str, values: Mapping[str, str], salt: str) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": namespace, "annotations": {SALT_ANNOTATION: salt}},
        "type": kind,
        "data": {key: _base64(values[key]) for key in sorted(values)},
    }


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def claim(spec: ServiceSpec) -> Object:
    """Return the PersistentVolumeClaim of ``spec.cache``, which must have a size."""
    cache = spec.cache
    if cache is None or cache.size is None:
        raise ValueError("a claim is only made from a cache with a size")
    wanted: Object = {"accessModes": list(cache.access_modes), "resources": {"requests": {"storage": cache.size}}}
    if cache.storage_class is not None:
        wanted["storageClassName"] = cache.storage_class
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": _metadata(spec, cache.claim),
        "spec": wanted,
    }


def metrics_name(service: str) -> str:
    """The names of the metrics objects are arena's, so that its dashboards and ours find the same."""
    return f"{service}-metric-svc"


def monitor_name(service: str) -> str:
    return f"{service}-svcmonitor"


def metrics_service(spec: ServiceSpec) -> Object:
    """Return the Service that Prometheus scrapes. It selects KServe's labels and has none: KServe 0.20 deletes such."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(spec, metrics_name(spec.name)),
        "spec": {
            "selector": {ISVC_LABEL: spec.name, "component": "predictor"},
            "ports": [
                {
                    "name": METRICS_PORT_NAME,
                    "port": spec.metrics_port,
                    "targetPort": spec.metrics_port,
                    "protocol": "TCP",
                }
            ],
        },
    }


def service_monitor(spec: ServiceSpec) -> Object:
    metadata = _metadata(spec, monitor_name(spec.name))
    metadata["annotations"] = {"arms.prometheus.io/discovery": "true"}  # Alibaba Cloud's Prometheus looks for it
    return {
        "apiVersion": MONITOR_API_VERSION,
        "kind": "ServiceMonitor",
        "metadata": metadata,
        "spec": {
            "selector": {"matchLabels": {SERVICE_LABEL: spec.name}},
            "namespaceSelector": {"matchNames": [spec.namespace]},
            "endpoints": [{"port": METRICS_PORT_NAME, "path": spec.contract.metrics_path, "interval": "15s"}],
        },
    }


def endpoint_name(service: str) -> str:
    """The Ingress called like the service is KServe's, which also writes into one that somebody else made."""
    return f"{service}-endpoint"


def endpoint(spec: ServiceSpec, ingress_class: str) -> Object:
    """Return the Ingress of ``spec.endpoint_host``, which must be set. With a TLS secret, plain HTTP is sent to HTTPS.

    ``ingress_class``: empty for the cluster's default.
    """
    metadata = _metadata(spec, endpoint_name(spec.name))
    service = {"name": f"{spec.name}-predictor", "port": {"number": 80}}
    path = {"path": "/", "pathType": "Prefix", "backend": {"service": service}}
    wanted: Object = {"rules": [{"host": spec.endpoint_host, "http": {"paths": [path]}}]}
    if ingress_class:
        wanted["ingressClassName"] = ingress_class
    if spec.tls_secret:
        wanted["tls"] = [{"hosts": [spec.endpoint_host], "secretName": spec.tls_secret}]
        metadata["annotations"] = {"ingress.kubernetes.io/force-ssl-redirect": "true"}  # nginx does it without a word
    return {"apiVersion": INGRESS_API_VERSION, "kind": "Ingress", "metadata": metadata, "spec": wanted}


def _metadata(spec: ServiceSpec, name: str) -> Object:
    return {"name": name, "namespace": spec.namespace, "labels": {SERVICE_LABEL: spec.name}}


def _strategy(spec: ServiceSpec) -> Object:
    """surge: a second GPU and no gap. in_place: the old pod's GPU goes to the new one."""
    if spec.update_strategy == "in_place" and max(spec.min_replicas, spec.max_replicas or 0) <= 1:
        # a rollout that may do without its only pod is "available" without any, and KServe calls that Ready
        return {"type": "Recreate"}
    surge = spec.update_strategy == "surge"
    return {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": int(surge), "maxUnavailable": int(not surge)}}


def inference_service(spec: ServiceSpec, mode: str) -> Object:
    """Return the InferenceService. ``mode`` is the cluster's word for it: ``Standard`` or ``RawDeployment``."""
    predictor: Object = {"minReplicas": spec.min_replicas}
    if spec.max_replicas is not None:
        predictor["maxReplicas"] = spec.max_replicas
    predictor["deploymentStrategy"] = _strategy(spec)
    predictor.update(patch.merge(pod(spec), spec.pod_patch))
    metadata: Object = {
        "name": spec.name,
        "namespace": spec.namespace,
        "annotations": {**_sorted(spec.annotations), MODE_ANNOTATION: mode, SCALER_ANNOTATION: spec.autoscaler_class},
    }
    if spec.labels:
        metadata["labels"] = _sorted(spec.labels)
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "spec": {"predictor": predictor}}


def pod(spec: ServiceSpec) -> Object:
    """Return the predictor's pod before ``pod_patch``."""
    volumes: list[Object] = []
    mounts: list[Object] = []
    if spec.share_memory:
        volumes.append({"name": SHM_VOLUME, "emptyDir": {"medium": "Memory", "sizeLimit": spec.share_memory}})
        mounts.append({"name": SHM_VOLUME, "mountPath": "/dev/shm"})
    if spec.cache:
        volumes.append({"name": CACHE_VOLUME, "persistentVolumeClaim": {"claimName": spec.cache.claim}})
        mounts.append({"name": CACHE_VOLUME, "mountPath": spec.cache.path})

    resources = {"cpu": spec.cpu, "memory": spec.memory}
    if spec.gpus:
        resources[spec.gpu_resource] = str(spec.gpus)
    container: Object = {"name": CONTAINER, "image": spec.image}
    if spec.image_pull_policy:
        container["imagePullPolicy"] = spec.image_pull_policy
    container["ports"] = [{"name": PORT_NAME, "containerPort": spec.port, "protocol": "TCP"}]
    if variables := environment(spec):
        container["env"] = variables
    container["resources"] = {"requests": dict(resources), "limits": dict(resources)}
    if mounts:
        container["volumeMounts"] = mounts
    container.update(probes(spec))

    made: Object = {"containers": [container]}
    if spec.image_pull_secrets:
        made["imagePullSecrets"] = [{"name": name} for name in spec.image_pull_secrets]
    if spec.service_account_name:
        made["serviceAccountName"] = spec.service_account_name
    if spec.node_selector:
        made["nodeSelector"] = _sorted(spec.node_selector)
    if spec.tolerations:
        made["tolerations"] = [dict(item) for item in spec.tolerations]
    if spec.security_context:
        made["securityContext"] = copy.deepcopy(dict(spec.security_context))
    made["terminationGracePeriodSeconds"] = spec.contract.grace_period
    if volumes:
        made["volumes"] = volumes
    return made


def environment(spec: ServiceSpec) -> list[Object]:
    """Return the variables: first those from secrets, so that others may say ``$(NAME)``; each group by name."""
    plain = dict(spec.env)
    if spec.cache:
        plain.setdefault("NIM_CACHE_PATH", spec.cache.path)
    if spec.port != contract.CONTAINER_PORT:
        plain.setdefault("NIM_SERVER_PORT", str(spec.port))
        plain.setdefault("NIM_HTTP_API_PORT", str(spec.port))  # what NIMs that are no language models call it
    secret = [
        {"name": name, "valueFrom": {"secretKeyRef": {"name": reference.secret, "key": reference.key}}}
        for name, reference in sorted(spec.env_from_secret.items())
    ]
    return [*secret, *({"name": name, "value": plain[name]} for name in sorted(plain))]


def probes(spec: ServiceSpec) -> Object:
    """Return HTTP probes. Without them KServe sets a TCP probe, which is content as soon as the port is open."""
    promise = spec.contract
    ready: Object = {"httpGet": {"path": promise.ready_path, "port": PORT_NAME, "scheme": "HTTP"}}
    live: Object = {"httpGet": {"path": promise.live_path, "port": PORT_NAME, "scheme": "HTTP"}}
    return {
        "startupProbe": {
            **copy.deepcopy(ready),
            "periodSeconds": PROBE_PERIOD,
            "timeoutSeconds": 2,
            "failureThreshold": -(-spec.startup_timeout // PROBE_PERIOD),
        },
        # A model at full load answers late: five seconds, not the chart's one, before a probe counts as failed.
        # as patient with a busy model as the chart's three probes in 30 seconds
        "readinessProbe": {**ready, "periodSeconds": PROBE_PERIOD, "timeoutSeconds": 5, "failureThreshold": 15},
        "livenessProbe": {**live, "periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": 3},
    }


def _sorted(values: Mapping[str, str]) -> dict[str, str]:
    return {key: values[key] for key in sorted(values)}
