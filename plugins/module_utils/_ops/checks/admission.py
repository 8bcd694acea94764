# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""A dry run of everything: the API server, its plugins and the webhooks say now what they would say later."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any, cast

from ansible_collections.gpuops.nim.plugins.module_utils._kube.client import Client
from ansible_collections.gpuops.nim.plugins.module_utils._kube.errors import (
    AdmissionDenied,
    Conflict,
    Forbidden,
    Foreign,
    Invalid,
    KubeError,
    Unreachable,
)
from ansible_collections.gpuops.nim.plugins.module_utils._nim import manifests
from ansible_collections.gpuops.nim.plugins.module_utils._ops import strategy
from ansible_collections.gpuops.nim.plugins.module_utils._ops.checks.rows import Row, failure, ok, unseen, warning
from ansible_collections.gpuops.nim.plugins.module_utils._ops.checks.scene import Scene, Wanted
from ansible_collections.gpuops.nim.plugins.module_utils._ops.deploy import Deploy
from ansible_collections.gpuops.nim.plugins.module_utils._ops.result import OpsError
from ansible_collections.gpuops.nim.plugins.module_utils._ops.task import NotInstalled, Service, by_namespace

Object = dict[str, Any]
_ENFORCED = "pod-security.kubernetes.io/enforce"


class _Kept(strategy.Chooser):
    """Doesn't look for room: `gpus` does, and which strategy it is decides nothing here."""

    def choose(self, isvc: Object, claims: Mapping[str, Object]) -> tuple[str, str]:
        return strategy.IN_PLACE, ""


class Rehearsed(Deploy):
    """The deployment in check mode, up to the wait."""

    def __init__(self, scene: Scene) -> None:
        services = [Service(each.entry, each.namespace, each.name, each.spec) for each in scene.services]
        super().__init__(scene.params, services, True, False, lambda line: None)
        self._scene = scene
        self.errors: dict[str, KubeError | OpsError] = {}

    @cached_property
    def client(self) -> Client:
        return self._scene.client

    @cached_property
    def _chooser(self) -> strategy.Chooser:
        return _Kept(self.client)

    def explained(self, error: KubeError | OpsError) -> str:
        text = super().explained(error)
        self.errors[text] = error
        return text

    def rehearse(self) -> list[Service]:
        for namespace, services in by_namespace(self.services).items():
            self._deploy_namespace(namespace, services)
        return self.services  # type: ignore[return-value]


def objects(scene: Scene) -> Iterator[Row]:
    """The InferenceServices and what stands beside them, through KServe's and everybody's webhooks."""
    rehearsed = Rehearsed(scene)
    try:
        services = rehearsed.rehearse()
    except NotInstalled:
        return  # a row of `kserve`
    except (Unreachable, OpsError) as error:
        yield failure("admission", "all objects", str(error), "")
        return
    for service, wanted in zip(services, scene.services):
        cause = rehearsed.errors.get(service.error)
        if not service.error and scene.missing(service.namespace):
            yield ok("admission", str(service), "not checked: its namespace does not exist yet")
        elif not service.error:
            yield ok("admission", str(service), f"{_listed(wanted)}: {service.action or 'unchanged'} in a dry run")
        elif isinstance(cause, Forbidden):
            yield unseen("admission", str(service), cause)
        else:
            yield failure("admission", str(service), *_split(service.error, cause))


def _split(text: str, error: KubeError | OpsError | None) -> tuple[str, str]:
    """The message, and what to do: its last sentence, where the error has one of its own."""
    if isinstance(error, AdmissionDenied) and error.webhook and "Set deployment_mode" not in text:
        return text, f"Change the service as {error.webhook} wants it, or ask who runs it."
    if isinstance(error, (Invalid, Conflict, Foreign)) or error is None:
        said, _dot, remedy = text.rpartition(". ")
        return (said, remedy) if said else (text, "")
    return text, ""


def _listed(wanted: Wanted) -> str:
    return ", ".join(["InferenceService", *(kind.kind for kind in wanted.extras)])


def pods(scene: Scene) -> Iterator[Row]:
    """The pod itself: pod security, priority, runtime class, account, limits and quotas are checked only for pods."""
    for service in scene.services:
        title = f"pod of {service}"
        if scene.missing(service.namespace):
            yield ok("pod", title, "not checked: its namespace does not exist yet")
            continue
        try:
            admitted(scene, service)
            yield ok("pod", title, f"accepted in a dry run{_level(scene, service.namespace)}")
        except Forbidden:
            yield from _by_label(scene, service, title)
        except (AdmissionDenied, Invalid) as error:
            if isinstance(error, AdmissionDenied) and error.webhook == "quota":  # its own pods may be what fills it
                yield ok("pod", title, "not checked: the quota has no room for one more pod; see the rows of quota")
                continue
            yield failure("pod", title, error.message, _remedy(error, service))


def admitted(scene: Scene, service: Wanted) -> Object:
    """The pod as the cluster's plugins and webhooks leave it: with tolerations, requests and the like of their own."""
    return cast(Object, scene.once(("pod", str(service)), lambda: scene.client.create(_pod(service), dry_run=True)))


def _pod(service: Wanted) -> Object:
    """With the label by which KServe's webhook, and policies of others, know a service's pods."""
    keep = ("minReplicas", "maxReplicas", "scaleMetric", "scaleTarget", "timeout", "deploymentStrategy", "model")
    spec = {key: value for key, value in service.pod.items() if key not in (*keep, "annotations", "labels")}
    image = {"image": service.spec.image or "none"}
    spec["containers"] = [{"name": "kserve-container", **image, **each} for each in spec["containers"]]
    labels = {**service.spec.labels, manifests.ISVC_LABEL: service.name}
    metadata = {"name": f"{service.name}-preflight", "namespace": service.namespace, "labels": labels}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def _level(scene: Scene, namespace: str) -> str:
    try:
        level = ((scene.namespace(namespace) or {})["metadata"].get("labels") or {}).get(_ENFORCED)
    except Forbidden:
        return ""
    return f", pod security {level}" if level else ""


def _by_label(scene: Scene, service: Wanted, title: str) -> Iterator[Row]:
    """Who may not make pods can only be told what the namespace demands."""
    level = _level(scene, service.namespace)
    if level.endswith(" restricted"):
        said = "not checked: this user may not make pods, and the namespace enforces the pod security level restricted"
        yield warning("pod", title, said, _RESTRICTED)
    else:
        yield ok("pod", title, f"not checked: this user may not make pods, nor needs to{level}")


_RESTRICTED = (
    "NIM fits it with security_context: {runAsNonRoot: true, runAsUser: 1000, fsGroup: 1000, seccompProfile: {type: "
    "RuntimeDefault}} and, by pod_patch, allowPrivilegeEscalation: false and capabilities: {drop: [ALL]} of its "
    "container."
)


def _remedy(error: KubeError, service: Wanted) -> str:
    if isinstance(error, AdmissionDenied) and error.webhook == "PodSecurity":
        return f"{_RESTRICTED} Or use another namespace."
    return "Change the service, or what refuses its pods: KServe could not make them."
