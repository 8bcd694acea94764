# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""The objects beside an InferenceService, at most one of each kind, known by their label and a name made of its own."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

from .manifests import ISVC_LABEL, METRICS_PORT_NAME, SERVICE_LABEL, Object, files_name, metadata_of, scraped_port
from .spec import ServiceSpec

_INTERVAL = "15s"
_FOUND_BY_ARMS = {"arms.prometheus.io/discovery": "true"}  # Alibaba Cloud's Prometheus looks for it


@dataclass(frozen=True)
class Kind:
    """``before``: made before the InferenceService, whose pods wait for it."""

    api_version: str
    kind: str
    suffix: str
    before: bool = False

    def name(self, service: str) -> str:
        return service + self.suffix

    def of(
        self,
        service: ServiceSpec,
        *,
        labels: Mapping[str, str] | None = None,
        annotations: Mapping[str, str] | None = None,
        **parts: Object,
    ) -> Object:
        """Return the service's object of this kind; ``parts`` stand beside its metadata."""
        metadata = metadata_of(service, self.name(service.name))
        metadata["labels"].update(labels or {})
        if annotations:
            metadata["annotations"] = dict(annotations)
        return {"apiVersion": self.api_version, "kind": self.kind, "metadata": metadata, **parts}


FILES = Kind("v1", "ConfigMap", files_name(""), before=True)
# It may not be called like KServe's own, NAME-predictor, which KServe would write into; this is arena's name.
AUTOSCALER = Kind("autoscaling/v2", "HorizontalPodAutoscaler", "-hpa")
# The Ingress called like the service is KServe's, which also writes into one that somebody else made.
ENDPOINT = Kind("networking.k8s.io/v1", "Ingress", "-endpoint")
# The names of the metrics objects are arena's, so that its dashboards and ours find the same.
METRICS = Kind("v1", "Service", "-metric-svc")
SERVICE_MONITOR = Kind("monitoring.coreos.com/v1", "ServiceMonitor", "-svcmonitor")
POD_MONITOR = Kind("monitoring.coreos.com/v1", "PodMonitor", "-podmonitor")
KINDS = (FILES, AUTOSCALER, ENDPOINT, METRICS, SERVICE_MONITOR, POD_MONITOR)  # as made; they go the other way round


def of(spec: ServiceSpec, ingress_class: str = "") -> dict[Kind, Object]:
    """Return all that the service wants beside itself. ``ingress_class``: empty for the cluster's default."""
    wanted = {}
    if spec.files:
        wanted[FILES] = FILES.of(spec, data={file.key: file.content for file in spec.files})
    if spec.scaling.metrics:
        wanted[AUTOSCALER] = autoscaler(spec)
    if spec.endpoint_host:
        wanted[ENDPOINT] = endpoint(spec, ingress_class)
    if spec.enable_prometheus and spec.monitor == "pod":
        wanted[POD_MONITOR] = pod_monitor(spec)
    elif spec.enable_prometheus:
        wanted[METRICS] = metrics_service(spec)
        wanted[SERVICE_MONITOR] = service_monitor(spec)
    return wanted


def autoscaler(spec: ServiceSpec) -> Object:
    scaling = spec.scaling
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": f"{spec.name}-predictor"}
    wanted: Object = {
        "scaleTargetRef": target,
        "minReplicas": scaling.least,
        "maxReplicas": scaling.most,
        "metrics": [copy.deepcopy(dict(metric)) for metric in scaling.metrics],
    }
    if scaling.behavior:
        wanted["behavior"] = copy.deepcopy(dict(scaling.behavior))
    return AUTOSCALER.of(spec, spec=wanted)


def metrics_service(spec: ServiceSpec) -> Object:
    """Return the Service that Prometheus scrapes. It selects KServe's labels and has none: KServe 0.20 deletes such."""
    port = {
        "name": METRICS_PORT_NAME,
        "port": spec.metrics_port,
        "targetPort": spec.metrics_port,
        "protocol": "TCP",
    }
    selector = {ISVC_LABEL: spec.name, "component": "predictor"}
    return METRICS.of(spec, spec={"selector": selector, "ports": [port]})


def service_monitor(spec: ServiceSpec) -> Object:
    wanted = {
        "selector": {"matchLabels": {SERVICE_LABEL: spec.name}},
        "namespaceSelector": {"matchNames": [spec.namespace]},
        "endpoints": [{"port": METRICS_PORT_NAME, "path": spec.contract.metrics_path, "interval": _INTERVAL}],
    }
    return SERVICE_MONITOR.of(spec, spec=wanted, labels=spec.monitor_labels, annotations=_FOUND_BY_ARMS)


def pod_monitor(spec: ServiceSpec) -> Object:
    place = {"port": scraped_port(spec), "path": spec.contract.metrics_path, "interval": _INTERVAL}
    wanted = {
        "selector": {"matchLabels": {ISVC_LABEL: spec.name, "component": "predictor"}},
        "namespaceSelector": {"matchNames": [spec.namespace]},
        "podMetricsEndpoints": [place],
    }
    return POD_MONITOR.of(spec, spec=wanted, labels=spec.monitor_labels, annotations=_FOUND_BY_ARMS)


def endpoint(spec: ServiceSpec, ingress_class: str) -> Object:
    """Return the Ingress of ``spec.endpoint_host``, which must be set. With a TLS secret, plain HTTP is sent to HTTPS.

    ``ingress_class``: empty for the cluster's default.
    """
    service = {"name": f"{spec.name}-predictor", "port": {"number": 80}}
    path = {"path": "/", "pathType": "Prefix", "backend": {"service": service}}
    wanted: Object = {"rules": [{"host": spec.endpoint_host, "http": {"paths": [path]}}]}
    if ingress_class:
        wanted["ingressClassName"] = ingress_class
    if not spec.tls_secret:
        return ENDPOINT.of(spec, spec=wanted)
    wanted["tls"] = [{"hosts": [spec.endpoint_host], "secretName": spec.tls_secret}]
    # nginx does it without a word
    return ENDPOINT.of(spec, spec=wanted, annotations={"ingress.kubernetes.io/force-ssl-redirect": "true"})
