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

from . import patch
from .names import (
    CA_VOLUME,
    CACHE_VOLUME,
    CONTAINER,
    FILES_ANNOTATION,
    FILES_VOLUME,
    MODE_ANNOTATION,
    PREFIX,
    READONLY_ANNOTATION,
    SCALER_ANNOTATION,
    SHM_VOLUME,
    TRUST_CONTAINER,
    TRUST_VOLUME,
)
from .options.volumes import TRUST_BUNDLE, TRUST_FOLDER, digest
from .spec import ServiceSpec

Object = dict[str, Any]

API_VERSION = "serving.kserve.io/v1beta1"
KIND = "InferenceService"
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
        "metadata": metadata_of(spec, cache.claim),
        "spec": wanted,
    }


def metadata_of(spec: ServiceSpec, name: str) -> Object:
    """Return the metadata of an object that stands beside the InferenceService and goes with it."""
    return {"name": name, "namespace": spec.namespace, "labels": {SERVICE_LABEL: spec.name}}


def strategy(word: str, replicas: int) -> Object:
    """surge: a second GPU and no gap. in_place: the old pod's GPU goes to the new one.

    :param replicas: at most.
    """
    surge = word == "surge"
    if not surge and replicas <= 1:
        # a rollout that may do without its only pod is "available" without any, and KServe calls that Ready
        return {"type": "Recreate"}
    return {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": int(surge), "maxUnavailable": int(not surge)}}


def files_name(service: str) -> str:
    return f"{service}-files"


def inference_service(spec: ServiceSpec, mode: str, update: str = "") -> Object:
    """Return the InferenceService.

    :param mode: the cluster's word for it, ``Standard`` or ``RawDeployment``.
    :param update: ``in_place`` or ``surge``, what ``auto`` means now; the specification's own if empty.
    """
    scaling = spec.scaling
    predictor: Object = {"minReplicas": scaling.least}
    if scaling.most is not None:
        predictor["maxReplicas"] = scaling.most
    if scaling.metric:
        predictor["scaleMetric"] = scaling.metric
    if scaling.target is not None:
        predictor["scaleTarget"] = scaling.target
    if spec.timeout is not None:
        predictor["timeout"] = spec.timeout
    if spec.files:  # the mounted files of a running pod don't change: a new content needs new pods
        predictor["annotations"] = {FILES_ANNOTATION: digest(spec.files)}
    predictor["deploymentStrategy"] = strategy(update or spec.update_strategy, max(scaling.least, scaling.most or 0))
    predictor.update(patch.merge(pod(spec), spec.pod_patch))
    if spec.model_format:
        _to_model(predictor, spec)
    annotations = {**_sorted(spec.annotations), MODE_ANNOTATION: mode, SCALER_ANNOTATION: scaling.autoscaler_class}
    if spec.model_format and (spec.model_format.storage_uri or "").startswith("pvc://"):
        annotations.setdefault(READONLY_ANNOTATION, "false")  # NIM writes into what it loads from
    metadata: Object = {"name": spec.name, "namespace": spec.namespace, "annotations": annotations}
    if spec.labels:
        metadata["labels"] = _sorted(spec.labels)
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "spec": {"predictor": predictor}}


def _to_model(predictor: Object, spec: ServiceSpec) -> None:
    """Turn NIM's container into ``predictor.model``, which KServe lays over the container of a serving runtime."""
    model = spec.model_format
    if model is None:
        return
    containers = predictor.pop("containers")
    main: Object = next((container for container in containers if container["name"] == CONTAINER), {})
    if others := [container for container in containers if container is not main]:
        predictor["containers"] = others
    form = {"name": model.name, **({"version": model.version} if model.version else {})}
    fields = _given(
        runtime=model.runtime,
        runtimeVersion=model.runtime_version,
        storageUri=model.storage_uri,
        protocolVersion=model.protocol_version,
    )
    unnamed = {key: value for key, value in main.items() if key != "name"}  # KServe 0.20 refuses the name
    predictor["model"] = {"modelFormat": form, **fields, **unnamed}


def pod(spec: ServiceSpec) -> Object:
    """Return the predictor's pod before ``pod_patch``."""
    resources = {"cpu": spec.cpu, "memory": spec.memory, **spec.devices}
    container: Object = {
        "name": CONTAINER,
        **_given(
            image=spec.image,
            imagePullPolicy=spec.image_pull_policy,
            command=list(spec.command),
            args=list(spec.args),
        ),
    }
    container["ports"] = [{"name": PORT_NAME, "containerPort": spec.port, "protocol": "TCP"}]
    if scraped_port(spec) != PORT_NAME:
        container["ports"].append({"name": METRICS_PORT_NAME, "containerPort": spec.metrics_port, "protocol": "TCP"})
    if variables := environment(spec):
        container["env"] = variables
    container["resources"] = {"requests": dict(resources), "limits": dict(resources)}
    volumes, mounts = _volumes(spec)
    if mounts:
        container["volumeMounts"] = mounts
    container.update(probes(spec))
    if spec.pre_stop_sleep:
        container["lifecycle"] = {"preStop": {"sleep": {"seconds": spec.pre_stop_sleep}}}

    made: Object = {
        "containers": [container],
        **_given(
            initContainers=[_trust(spec)] if spec.ca_bundle else [],
            imagePullSecrets=[{"name": name} for name in spec.image_pull_secrets],
            serviceAccountName=spec.service_account_name,
            priorityClassName=spec.priority_class_name,
            runtimeClassName=spec.runtime_class_name,
            schedulerName=spec.scheduler_name,
            nodeSelector=_sorted(spec.node_selector),
            tolerations=[dict(item) for item in spec.tolerations],
            affinity=copy.deepcopy(dict(spec.affinity)),
            topologySpreadConstraints=[copy.deepcopy(dict(item)) for item in spec.topology_spread_constraints],
            securityContext=copy.deepcopy(dict(spec.security_context)),
        ),
    }
    made["terminationGracePeriodSeconds"] = spec.termination_grace_period
    if volumes:
        made["volumes"] = volumes
    return made


def _given(**fields: Any) -> Object:
    return {key: value for key, value in fields.items() if value}


def _volumes(spec: ServiceSpec) -> tuple[list[Object], list[Object]]:
    """Return the pod's volumes and the container's mounts."""
    volumes: dict[str, Object] = {}
    mounts: list[Object] = []

    def mount(name: str, source: Mapping[str, Any], path: str, **options: Any) -> None:
        volumes[name] = {"name": name, **copy.deepcopy(dict(source))}
        mounts.append({"name": name, "mountPath": path, **options})

    if spec.share_memory:
        mount(SHM_VOLUME, {"emptyDir": {"medium": "Memory", "sizeLimit": spec.share_memory}}, "/dev/shm")
    if spec.cache:
        below = {"subPath": spec.cache.sub_path} if spec.cache.sub_path else {}
        mount(CACHE_VOLUME, {"persistentVolumeClaim": {"claimName": spec.cache.claim}}, spec.cache.path, **below)
    for one in spec.mounts:
        mount(one.volume, one.source, one.path, **one.options)
    for file in spec.files:
        source = {"configMap": {"name": files_name(spec.name)}}
        mount(FILES_VOLUME, source, file.path, subPath=file.key, readOnly=True)
    if spec.ca_bundle:
        mount(TRUST_VOLUME, {"emptyDir": {}}, TRUST_FOLDER, readOnly=True)
        named = "secretName" if spec.ca_bundle.kind == "secret" else "name"
        volumes[CA_VOLUME] = {"name": CA_VOLUME, spec.ca_bundle.kind: {named: spec.ca_bundle.name}}
    return list(volumes.values()), mounts


# The image's own CAs, where Debian or Red Hat keep them, and the private ones after them. A shell is all it needs.
_TRUST_SCRIPT = """\
copy() { while IFS= read -r line || [ -n "$line" ]; do printf '%s\\n' "$line"; done <"$1"; }
set -e
for system in /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt; do
  if [ -s "$system" ]; then copy "$system"; break; fi
done >BUNDLE
copy "/private-ca/KEY" >>BUNDLE
"""


def _trust(spec: ServiceSpec) -> Object:
    """Return the container that puts the CAs together. It is NIM's own image and user: neither root nor another image.

    A variable can name but one file, so the image's own CAs have to be in it, too.
    """
    ca = spec.ca_bundle
    key = ca.key if ca else ""
    sizes = {"cpu": "100m", "memory": "64Mi"}
    made: Object = {
        "name": TRUST_CONTAINER,
        "image": spec.image,
        "command": ["sh", "-c", _TRUST_SCRIPT.replace("BUNDLE", TRUST_BUNDLE).replace("KEY", key)],
        "resources": {"requests": sizes, "limits": dict(sizes)},
        "volumeMounts": [
            {"name": CA_VOLUME, "mountPath": "/private-ca", "readOnly": True},
            {"name": TRUST_VOLUME, "mountPath": TRUST_FOLDER},
        ],
    }
    if spec.image_pull_policy:
        made["imagePullPolicy"] = spec.image_pull_policy
    return made


def environment(spec: ServiceSpec) -> list[Object]:
    """Return the variables: first those from secrets, so that others may say ``$(NAME)``; each group by name."""
    plain = {**spec.settings, **spec.env}
    secret = [
        {"name": name, "valueFrom": {"secretKeyRef": {"name": reference.secret, "key": reference.key}}}
        for name, reference in sorted(spec.env_from_secret.items())
    ]
    return [*secret, *({"name": name, "value": plain[name]} for name in sorted(plain))]


def scraped_port(spec: ServiceSpec) -> str:
    """The name of the container's port that a PodMonitor scrapes; it can't name one by its number."""
    other = spec.enable_prometheus and spec.monitor == "pod" and spec.metrics_port != spec.port
    return METRICS_PORT_NAME if other else PORT_NAME


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
