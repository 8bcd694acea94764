# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""What the checks look at. Each thing is read once, when the first check wants it; checks may run beside each other."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, cast

from ansible_collections.gpuops.nim.plugins.module_utils._kube.client import Client
from ansible_collections.gpuops.nim.plugins.module_utils._kube.errors import Forbidden, KindMissing, NotFound
from ansible_collections.gpuops.nim.plugins.module_utils._nim import capacity, extras, kserve_config, manifests
from ansible_collections.gpuops.nim.plugins.module_utils._nim.extras import Kind
from ansible_collections.gpuops.nim.plugins.module_utils._nim.spec import ServiceSpec
from ansible_collections.gpuops.nim.plugins.module_utils._ops import strategy
from ansible_collections.gpuops.nim.plugins.module_utils._ops.services import Entry

Object = dict[str, Any]
Objects = list[Object]


@dataclass(frozen=True)
class Wanted:
    """One service as it is to become. ``pod``: the ``spec`` of its pods; ``extras``: what stands beside it."""

    entry: Entry
    spec: ServiceSpec
    isvc: Object
    pod: Object
    extras: Mapping[Kind, Object]

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"

    @property
    def namespace(self) -> str:
        return self.spec.namespace

    @property
    def name(self) -> str:
        return self.spec.name


def wanted(entry: Entry, spec: ServiceSpec) -> Wanted:
    isvc = manifests.inference_service(spec, "Standard")
    return Wanted(entry, spec, isvc, strategy.pod_of(isvc), extras.of(spec))


class Scene:
    """The cluster and the services that are to be in it. Raises KubeError and its kin."""

    def __init__(self, params: Mapping[str, Any], services: Sequence[Wanted], client: Client) -> None:
        self.params = params
        self.services = services
        self.client = client
        self._lock = threading.Lock()
        self._known: dict[Hashable, Future[Any]] = {}

    @property
    def namespaces(self) -> list[str]:
        return list(dict.fromkeys(service.namespace for service in self.services))

    def of(self, namespace: str) -> list[Wanted]:
        """The services of a namespace."""
        return [service for service in self.services if service.namespace == namespace]

    def once(self, key: Hashable, read: Callable[[], Any]) -> Any:
        """What ``read`` gave when it was asked for the first time; its error, too."""
        with self._lock:
            known = self._known.get(key)
            future = self._known.setdefault(key, Future())
        if known is None:
            try:
                future.set_result(read())
            except BaseException as error:
                future.set_exception(error)
        return future.result()

    def get(self, api_version: str, kind: str, name: str, namespace: str | None = None) -> Object | None:
        return cast(
            "Object | None",
            self.once(("get", kind, namespace, name), lambda: self.client.get(api_version, kind, name, namespace)),
        )

    def list(self, api_version: str, kind: str, namespace: str | None = None, **how: Any) -> Objects:
        return cast(
            Objects,
            self.once(("list", kind, namespace), lambda: self.client.list(api_version, kind, namespace, **how).items),
        )

    # the cluster

    def nodes(self) -> Objects:
        """In short form; of the images that they have, those of the services."""
        images = {service.spec.image for service in self.services}
        return self.list("v1", "Node", keep=lambda node: capacity.short_node(node, images))

    def grows(self) -> str:
        """What adds nodes when pods find no room; empty if nothing is seen that does."""
        return cast(str, self.once("grows", self._grows))

    def _grows(self) -> str:
        try:
            if self.client.get("v1", "ConfigMap", "cluster-autoscaler-status", "kube-system"):
                return "the cluster autoscaler"
        except Forbidden:
            pass
        return "Karpenter" if self.serves("/apis/karpenter.sh") else ""

    def serves(self, path: str) -> bool:
        """Whether the API server has a group, or a version of one."""

        def ask() -> bool:
            try:
                self.client.request("GET", path)
            except (Forbidden, KindMissing, NotFound):
                return False
            return True

        return cast(bool, self.once(("serves", path), ask))

    def kserve(self) -> kserve_config.KServeConfig | None:
        """What KServe's ConfigMap says; ``None`` where there is none."""
        found = self.get("v1", "ConfigMap", kserve_config.NAME, self.params["kserve_namespace"])
        return kserve_config.parse(found) if found else None

    def controller(self) -> Object | None:
        """KServe's Deployment; a controller outside the cluster has none."""
        return self.get("apps/v1", "Deployment", "kserve-controller-manager", self.params["kserve_namespace"])

    # a namespace

    def namespace(self, name: str) -> Object | None:
        return self.get("v1", "Namespace", name)

    def missing(self, name: str) -> bool:
        """Whether it is known that the namespace doesn't exist."""
        try:
            return self.namespace(name) is None
        except Forbidden:
            return False

    def live(self, service: Wanted) -> Object | None:
        """The InferenceService as it is now; ``None`` also where there is no KServe, or it may not be seen."""
        try:
            found = self.list(manifests.API_VERSION, manifests.KIND, service.namespace)
        except (Forbidden, KindMissing):
            return None
        return next((isvc for isvc in found if isvc["metadata"]["name"] == service.name), None)

    def claims(self, namespace: str) -> dict[str, Object]:
        found = self.list("v1", "PersistentVolumeClaim", namespace)
        return {claim["metadata"]["name"]: claim for claim in found}
