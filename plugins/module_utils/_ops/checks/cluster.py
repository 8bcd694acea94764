# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""What the cluster as a whole must have: KServe, a way in, and what metrics and scaling need."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ansible_collections.gpuops.nim.plugins.module_utils._kube.errors import Forbidden, KindMissing
from ansible_collections.gpuops.nim.plugins.module_utils._nim import extras, kserve_config, manifests, names, states
from ansible_collections.gpuops.nim.plugins.module_utils._ops.checks.rows import Row, failure, ok, warning
from ansible_collections.gpuops.nim.plugins.module_utils._ops.checks.scene import Scene
from ansible_collections.gpuops.nim.plugins.module_utils._ops.task import NotInstalled

_DEFAULT_CLASS = "ingressclass.kubernetes.io/is-default-class"
_OLDEST = (0, 13)  # the first with deploymentStrategy
_METRICS_APIS = {  # by the type of an autoscaler's metric
    "Resource": ("/apis/metrics.k8s.io", "metrics.k8s.io, of the metrics server"),
    "ContainerResource": ("/apis/metrics.k8s.io", "metrics.k8s.io, of the metrics server"),
    "Pods": ("/apis/custom.metrics.k8s.io", "custom.metrics.k8s.io, of a Prometheus adapter"),
    "Object": ("/apis/custom.metrics.k8s.io", "custom.metrics.k8s.io, of a Prometheus adapter"),
    "External": ("/apis/external.metrics.k8s.io", "external.metrics.k8s.io, of a metrics adapter"),
}

Object = dict[str, Any]


def kserve(scene: Scene) -> Iterator[Row]:
    """Whether it is there, runs, and which words it uses."""
    try:
        scene.list(manifests.API_VERSION, manifests.KIND, scene.namespaces[0])
    except KindMissing:
        text = str(NotInstalled())
        said, _dot, remedy = text.partition(". ")
        yield failure("kserve", "KServe", said, remedy)
        return
    except Forbidden:
        pass  # a row of `rights`
    place = scene.params["kserve_namespace"]
    config = scene.kserve()
    if config is None:
        remedy = "Set kserve_namespace to the namespace of KServe's controller."
        yield failure("kserve", "KServe", f"there is no ConfigMap {kserve_config.NAME} in namespace {place}", remedy)
        return
    controller = scene.controller()
    image = _image(controller)
    version = kserve_config.version_of(image)
    word = kserve_config.word_for(config, image)
    release = f"release {version[0]}.{version[1]}" if version else "its release is not to be seen"
    text = f"{release}, deploys in the mode {word}"
    if version and version < _OLDEST:
        remedy = f"Update KServe; {_OLDEST[0]}.{_OLDEST[1]} is the oldest that can replace a pod on its GPU."
        yield failure("kserve", "KServe", text, remedy)
    elif controller and not (controller.get("status") or {}).get("availableReplicas"):
        remedy = f"Look at it: `kubectl get pods --namespace {place}`."
        yield failure("kserve", "KServe", f"{text}, but no pod of its controller is available", remedy)
    else:
        yield ok("kserve", "KServe", text)
    for service in scene.services:
        live = scene.live(service)
        mode = kserve_config.live_mode(live, names.MODE_ANNOTATION) if live else ""
        if mode and mode not in kserve_config.STANDARD:
            remedy = "Remove the service first (state: absent keeps the cache), then deploy it again."
            yield failure("kserve", str(service), f"it runs in the mode {mode}, which KServe can't change", remedy)


def _image(controller: Object | None) -> str:
    containers = controller["spec"]["template"]["spec"]["containers"] if controller else []
    return str(next((each["image"] for each in containers if each["name"] == "manager"), ""))


def ingress(scene: Scene) -> Iterator[Row]:
    """The class that KServe writes into its Ingresses, and whether somebody acts on it."""
    config = scene.kserve() or kserve_config.KServeConfig()
    if config.gateway or not config.makes_ingresses:
        way = "the Gateway API" if config.gateway else "no Ingresses"
        yield ok("ingress", "KServe", f"uses {way}, so no ingress class is needed")
        if not any(service.spec.endpoint_host for service in scene.services):
            return
    name = config.ingress_class
    classes = {each["metadata"]["name"]: each for each in scene.list("networking.k8s.io/v1", "IngressClass")}
    found = classes.get(name) if name else _default(classes)
    if found is None:
        there = f"; there are: {', '.join(sorted(classes))}" if classes else ", nor any other"
        wanted = f"ingress class {name}" if name else "the default ingress class"
        remedy = (
            "Install an ingress controller, or set ingressClassName in the ConfigMap "
            f"{scene.params['kserve_namespace']}/{kserve_config.NAME} to one that is there, and restart KServe's "
            "controller."
        )
        yield warning("ingress", wanted, f"there is no such class{there}: no one outside reaches a service", remedy)
        return
    title = f"ingress class {found['metadata']['name']}"
    address = _address(scene, found["metadata"]["name"])
    said = f"of {found['spec'].get('controller')}"
    yield ok("ingress", title, f"{said}, reached at {address}" if address else f"{said}; no Ingress has an address yet")


def _default(classes: dict[str, Object]) -> Object | None:
    marked = [c for c in classes.values() if (c["metadata"].get("annotations") or {}).get(_DEFAULT_CLASS) == "true"]
    return marked[0] if marked else None


def _address(scene: Scene, name: str) -> str:
    """Where an Ingress of the class is reached, of the services' namespaces: they need no further right."""
    given = next((s.entry.params["ingress_address"] for s in scene.services if s.entry.params["ingress_address"]), "")
    if given:
        return f"{given} (ingress_address)"
    for namespace in scene.namespaces:
        try:
            ingresses = scene.list("networking.k8s.io/v1", "Ingress", namespace)
        except Forbidden:
            continue
        for each in ingresses:
            if each["spec"].get("ingressClassName") == name and (address := states.ingress_address(each)):
                return address
    return ""


def monitoring(scene: Scene) -> Iterator[Row]:
    for kind in (extras.SERVICE_MONITOR, extras.POD_MONITOR):
        asking = [service for service in scene.services if kind in service.extras]
        if not asking:
            continue
        if scene.client.serves(kind.api_version, kind.kind):
            yield ok("monitoring", kind.kind, "the cluster knows it")
        else:
            remedy = "Install the Prometheus operator, or point Prometheus at the services by hand."
            who = ", ".join(map(str, asking))
            yield warning("monitoring", kind.kind, f"the cluster doesn't know it, so nothing scrapes {who}", remedy)


def autoscaling(scene: Scene) -> Iterator[Row]:
    """The APIs that autoscalers read, of ours and KServe's."""
    asking: dict[tuple[str, str], list[str]] = {}
    for service in scene.services:
        scaling = service.spec.scaling
        kinds = [str(metric.get("type")) for metric in scaling.metrics]
        if scaling.autoscaler_class == "hpa" and (scaling.most or scaling.least) > scaling.least:
            kinds.append("Resource")
        for api in dict.fromkeys(_METRICS_APIS[kind] for kind in kinds if kind in _METRICS_APIS):
            asking.setdefault(api, []).append(str(service))
        if scaling.autoscaler_class == "keda":
            if scene.serves("/apis/keda.sh/v1alpha1"):
                yield ok("autoscaling", str(service), "KEDA is there")
            else:
                yield failure(
                    "autoscaling",
                    str(service),
                    "KEDA is not installed, so KServe can't scale the service, and does not deploy it",
                    "Install KEDA, or set another autoscaler_class.",
                )
    for (path, title), services in asking.items():
        name, _comma, whose = title.partition(", of ")
        if scene.serves(path):
            yield ok("autoscaling", name, f"the cluster has it, for {', '.join(services)}")
        else:
            remedy = f"Install {whose}; until then the number of replicas stays at min_replicas."
            yield warning("autoscaling", name, f"the cluster has no such API; it scales {', '.join(services)}", remedy)
