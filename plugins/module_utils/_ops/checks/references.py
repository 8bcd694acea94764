# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""What the services' pods name and what must therefore be there: namespaces, secrets, classes, accounts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ansible_collections.gpuops.nim.plugins.module_utils._kube.errors import Forbidden, KindMissing
from ansible_collections.gpuops.nim.plugins.module_utils._kube.ownership import is_ours, owner
from ansible_collections.gpuops.nim.plugins.module_utils._nim import extras
from ansible_collections.gpuops.nim.plugins.module_utils._ops.checks.rows import Row, failure, ok, unseen
from ansible_collections.gpuops.nim.plugins.module_utils._ops.checks.scene import Scene, Wanted

Object = dict[str, Any]


@dataclass(frozen=True)
class Reference:
    """``key``: that must be in it; empty for any. ``option``: that names it, if one does."""

    kind: str
    name: str
    key: str = ""
    option: str = ""


def namespaces(scene: Scene) -> Iterator[Row]:
    for name in scene.namespaces:
        title = f"namespace {name}"
        try:
            found = scene.namespace(name)
        except Forbidden as error:
            yield unseen("namespace", title, error, "It must exist.")
            continue
        phase = ((found or {}).get("status") or {}).get("phase")
        if phase == "Terminating":
            yield failure("namespace", title, "it is being deleted", "Wait until it is gone, or use another.")
        elif found:
            yield ok("namespace", title, "it exists")
        elif all(service.entry.params["create_namespace"] for service in scene.of(name)):
            yield ok("namespace", title, "it does not exist yet and will be made; what depends on it is not checked")
        else:
            remedy = "Correct the name, or set create_namespace: true."
            yield failure("namespace", title, "there is no such namespace", remedy)


def secrets(scene: Scene) -> Iterator[Row]:
    """Those that this run writes itself: is a name taken by somebody else?"""
    for namespace in scene.namespaces:
        adopt = any(service.entry.params["adopt"] for service in scene.of(namespace))
        for name in scene.params["own_secrets"]:
            found = None if scene.missing(namespace) else scene.get("v1", "Secret", name, namespace)
            title = f"Secret {namespace}/{name}"
            if found is None:
                yield ok("secrets", title, "it is not there yet; nim_secret makes it")
            elif is_ours(found) or adopt:
                yield ok("secrets", title, "it is ours")
            else:
                remedy = "Remove it, choose other names, or take it over with adopt: true."
                yield failure("secrets", title, f"it exists and isn't ours: {owner(found)}", remedy)


def others(scene: Scene) -> Iterator[Row]:
    """All else that a pod names; what is missing keeps the pod from starting, or from being made."""
    for service in scene.services:
        if scene.missing(service.namespace):
            absent = [r for r in references(service) if r.kind in _NAMESPACED and not _made(scene, service, r)]
            for reference in dict.fromkeys((each.kind, each.name) for each in absent):
                title = f"{reference[0]} {service.namespace}/{reference[1]}"
                remedy = f"Make the namespace and the {reference[0]} first."
                yield failure("references", title, f"{service} names it, but its namespace does not exist yet", remedy)
            wanted = [reference for reference in references(service) if reference.kind not in _NAMESPACED]
        else:
            wanted = [reference for reference in references(service) if not _made(scene, service, reference)]
        found = [row for reference in dict.fromkeys(wanted) for row in _look(scene, service, reference)]
        found += _runtime(scene, service)
        yield from dict.fromkeys(found)


_KINDS = {
    "Secret": "v1",
    "ConfigMap": "v1",
    "ServiceAccount": "v1",
    "PriorityClass": "scheduling.k8s.io/v1",
    "RuntimeClass": "node.k8s.io/v1",
}
_NAMESPACED = ("Secret", "ConfigMap", "ServiceAccount")


def _made(scene: Scene, service: Wanted, reference: Reference) -> bool:
    """Whether this run makes it."""
    if reference.kind == "Secret":
        return reference.name in scene.params["own_secrets"]
    return reference.kind == "ConfigMap" and reference.name == extras.FILES.name(service.name)


def _look(scene: Scene, service: Wanted, reference: Reference) -> Iterator[Row]:
    kind, name = reference.kind, reference.name
    inside = kind in _NAMESPACED
    title = f"{kind} {service.namespace}/{name}" if inside else f"{kind} {name}"
    try:
        found = scene.get(_KINDS[kind], kind, name, service.namespace if inside else None)
    except Forbidden as error:
        yield unseen("references", title, error, f"It must exist; {service} names it.")
        return
    by = f"{service} names it" + (f" ({reference.option})" if reference.option else "")
    if found is None:
        yield failure("references", title, f"there is no such {kind}, but {by}", _REMEDIES[kind])
    elif reference.key and reference.key not in {**(found.get("data") or {}), **(found.get("binaryData") or {})}:
        there = ", ".join(sorted(found.get("data") or {})) or "nothing"
        said = f"it has no key {reference.key}, but {by}; it has: {there}"
        yield failure("references", title, said, f"Add the key {reference.key}, or name one that it has.")
    else:
        yield ok("references", title, f"it is there; {by}")


def _runtime(scene: Scene, service: Wanted) -> Iterator[Row]:
    """The serving runtime that a model names: of its namespace, or of the cluster."""
    name = service.spec.model_format.runtime if service.spec.model_format else None
    if name is None:
        return
    title, namespace = f"serving runtime {name}", service.namespace
    try:
        own = None if scene.missing(namespace) else scene.get(_RUNTIMES, "ServingRuntime", name, namespace)
        found = own or scene.get(_RUNTIMES, "ClusterServingRuntime", name)
    except (Forbidden, KindMissing) as error:
        yield unseen("references", title, error, f"It must exist; {service} names it.")
        return
    if found:
        yield ok("references", title, f"it is there; {service} names it (runtime)")
    else:
        remedy = "Make it, or correct runtime: `kubectl get servingruntimes,clusterservingruntimes` lists them."
        yield failure("references", title, f"there is no such serving runtime, but {service} names it", remedy)


_RUNTIMES = "serving.kserve.io/v1alpha1"
_REMEDIES = {
    "Secret": "Make it, or correct the name; nim_secret makes ngc-secret and nvidia-nim-secrets.",
    "ConfigMap": "Make it, or correct the name.",
    "ServiceAccount": "Make it, or correct service_account_name: without it no pod is made.",
    "PriorityClass": "Make it, or correct priority_class_name: `kubectl get priorityclass` lists them.",
    "RuntimeClass": "Make it, or correct runtime_class_name: `kubectl get runtimeclass` lists them.",
}


def references(service: Wanted) -> list[Reference]:
    """What the service's pods, after `pod_patch`, and its Ingress name. Optional references don't count."""
    pod = service.pod
    found = [
        Reference(kind, str(pod[field]), option=option)
        for field, kind, option in (
            ("serviceAccountName", "ServiceAccount", "service_account_name"),
            ("priorityClassName", "PriorityClass", "priority_class_name"),
            ("runtimeClassName", "RuntimeClass", "runtime_class_name"),
        )
        if pod.get(field)
    ]
    found += [
        Reference("Secret", each["name"], option="image_pull_secrets") for each in pod.get("imagePullSecrets") or ()
    ]
    for container in [*(pod.get("initContainers") or ()), *pod["containers"]]:
        found += _of_environment(container)
    for volume in pod.get("volumes") or ():
        found += _of_volume(volume)
    if service.spec.tls_secret:
        found += [Reference("Secret", service.spec.tls_secret, key, "tls_secret") for key in ("tls.crt", "tls.key")]
    return found


def _of_environment(container: Mapping[str, Any]) -> Iterator[Reference]:
    for variable in container.get("env") or ():
        source = variable.get("valueFrom") or {}
        for field, kind in (("secretKeyRef", "Secret"), ("configMapKeyRef", "ConfigMap")):
            reference = source.get(field)
            if reference and not reference.get("optional"):
                yield Reference(kind, reference["name"], reference["key"], f"variable {variable['name']}")
    for source in container.get("envFrom") or ():
        for field, kind in (("secretRef", "Secret"), ("configMapRef", "ConfigMap")):
            reference = source.get(field)
            if reference and not reference.get("optional"):
                yield Reference(kind, reference["name"], option="envFrom")


def _of_volume(volume: Mapping[str, Any]) -> Iterator[Reference]:
    option = f"volume {volume.get('name')}"
    for source in [volume, *((volume.get("projected") or {}).get("sources") or ())]:
        for field, kind, named in (("secret", "Secret", "secretName"), ("configMap", "ConfigMap", "name")):
            reference = source.get(field)
            if reference and not reference.get("optional"):
                name = str(reference.get(named) or reference.get("name") or "")
                keys = [item["key"] for item in reference.get("items") or ()] or [""]
                yield from (Reference(kind, name, key, option) for key in keys)
