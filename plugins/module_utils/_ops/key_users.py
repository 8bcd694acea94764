# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""Who uses the NGC key of a cluster: namespaces with its Secrets, services whose pods name them, and other pods."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.gpuops.nim.plugins.module_utils._kube.client import Client
from ansible_collections.gpuops.nim.plugins.module_utils._kube.errors import Forbidden, KindMissing
from ansible_collections.gpuops.nim.plugins.module_utils._nim import (
    capacity,
    kserve_config,
    manifests,
    names,
    nimservice,
    states,
)
from ansible_collections.gpuops.nim.plugins.module_utils._ops.managers import managed_by
from ansible_collections.gpuops.nim.plugins.module_utils._ops.result import OpsError

Object = dict[str, Any]
OPERATORS = "the NIM Operator runs it"


@dataclass(frozen=True)
class Names:
    """What the two Secrets are called."""

    pull: str
    runtime: str

    def used_by(self, pod: Mapping[str, Any]) -> bool:
        """:param pod: its ``spec``."""
        pulled = any(each.get("name") == self.pull for each in pod.get("imagePullSecrets") or ())
        return pulled or any(self._reads(container) for container in containers(pod))

    def _reads(self, container: Mapping[str, Any]) -> bool:
        sources = [each.get("secretRef") for each in container.get("envFrom") or ()]
        sources += [(each.get("valueFrom") or {}).get("secretKeyRef") for each in container.get("env") or ()]
        return any((source or {}).get("name") == self.runtime for source in sources)


@dataclass(frozen=True)
class KeyService:
    """An InferenceService whose pods name one of the Secrets. ``pods``: those that are not over."""

    isvc: Object
    deployment: Object | None
    pods: Sequence[Object]

    @property
    def namespace(self) -> str:
        return str(self.isvc["metadata"]["namespace"])

    @property
    def name(self) -> str:
        return str(self.isvc["metadata"]["name"])

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"

    @property
    def pod(self) -> Object:
        """The ``spec`` of its pods, with what KServe and a serving runtime add where the Deployment is there."""
        if self.deployment:
            return self.deployment["spec"]["template"]["spec"]  # type: ignore[no-any-return]
        predictor = self.isvc["spec"]["predictor"]
        return {"containers": [predictor["model"]] if predictor.get("model") else [], **predictor}

    @property
    def image(self) -> str:
        """That of NIM's own container."""
        found = list(containers(self.pod))
        main = [each for each in found if each.get("name") == names.CONTAINER] or found
        return str(main[0].get("image") or "") if main else ""

    @property
    def managed_by(self) -> str:
        return managed_by({**self.isvc, "kind": manifests.KIND})

    @property
    def not_handled(self) -> str:
        """Why its pods can't be renewed here; empty where they can."""
        if self.managed_by == "NIM Operator":
            return OPERATORS
        mode = kserve_config.live_mode(self.isvc, names.MODE_ANNOTATION)
        if mode and mode not in kserve_config.STANDARD:
            return f"it runs in the mode {mode}, where Knative makes the pods"
        if self.isvc["spec"]["predictor"].get("workerSpec"):
            return "its model runs on several nodes"
        return ""


@dataclass(frozen=True)
class Place:
    """A namespace in which the key is used. ``pods``: all that are not over; ``services``: by name."""

    name: str
    pull: Object | None
    runtime: Object | None
    services: Sequence[KeyService]
    pods: Sequence[Object]

    def others(self, used: Names) -> list[Object]:
        """The pods that use the key and belong to none of the services."""
        ours = {pod["metadata"]["uid"] for service in self.services for pod in service.pods}
        return [pod for pod in self.pods if pod["metadata"]["uid"] not in ours and used.used_by(pod["spec"])]


def find(client: Client, namespaces: Sequence[str], used: Names) -> list[Place]:
    """The namespaces in which the key is used: they have both Secrets, or a service whose pods name one of them.

    :param namespaces: where to look; empty: in all.
    :raises OpsError: the whole cluster may not be searched.
    """
    pulls, runtimes = (
        {secret["metadata"]["namespace"]: secret for secret in named(client, "v1", "Secret", namespaces, name)}
        for name in (used.pull, used.runtime)
    )
    services: dict[str, list[tuple[Object, Object | None]]] = defaultdict(list)
    isvcs = named(client, manifests.API_VERSION, manifests.KIND, namespaces)
    deployments = {
        (each["metadata"]["namespace"], each["metadata"]["name"]): each
        for each in (named(client, "apps/v1", "Deployment", namespaces, labels=manifests.ISVC_LABEL) if isvcs else ())
    }
    for isvc in sorted(isvcs, key=lambda each: str(each["metadata"]["name"])):
        namespace, name = isvc["metadata"]["namespace"], isvc["metadata"]["name"]
        deployment = deployments.get((namespace, f"{name}-predictor"))
        if used.used_by(KeyService(isvc, deployment, ()).pod):
            services[namespace].append((isvc, deployment))
    places = []
    for namespace in sorted(services.keys() | (pulls.keys() & runtimes.keys())):
        pods = client.list("v1", "Pod", namespace, fields=capacity.NOT_OVER).items
        mine = defaultdict(list)
        for pod in pods:
            labels = pod["metadata"].get("labels") or {}
            if labels.get("component", "predictor") == "predictor":
                mine[labels.get(manifests.ISVC_LABEL)].append(pod)
        found = [KeyService(isvc, made, mine[isvc["metadata"]["name"]]) for isvc, made in services[namespace]]
        places.append(Place(namespace, pulls.get(namespace), runtimes.get(namespace), found, pods))
    return places


def operators(client: Client, namespaces: Sequence[str], used: Names) -> list[Object]:
    """The services of NVIDIA's NIM Operator that use the key."""
    try:
        found = named(client, nimservice.API_VERSION, nimservice.KIND, namespaces)
    except OpsError:  # the operator's own affair: nobody should need a right for it
        return []
    return [
        each
        for each in found
        if each["spec"].get("authSecret") == used.runtime
        or used.pull in ((each["spec"].get("image") or {}).get("pullSecrets") or ())
    ]


def containers(pod: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """:param pod: its ``spec``."""
    yield from pod.get("containers") or ()
    yield from pod.get("initContainers") or ()


def maker(pod: Mapping[str, Any]) -> str:
    """What made a pod and makes it anew when it is gone, as kind and name."""
    owners = pod["metadata"].get("ownerReferences") or ()
    return next((f"{each['kind']} {each['name']}" for each in owners if each.get("controller")), "nobody")


def serving(pods: Iterable[Object]) -> list[Object]:
    """Those that take requests."""
    return [
        pod
        for pod in pods
        if "deletionTimestamp" not in pod["metadata"] and states.condition(pod, "Ready").get("status") == "True"
    ]


def named(
    client: Client, api_version: str, kind: str, namespaces: Sequence[str], name: str = "", *, labels: str = ""
) -> list[Object]:
    """All of a kind, or those of a name; none where the cluster doesn't know the kind.

    :raises OpsError: not in all namespaces.
    """
    fields = f"metadata.name={name}" if name else ""
    found: list[Object] = []
    everywhere: list[str | None] = [None]
    for namespace in namespaces or everywhere:
        try:
            found += client.list(api_version, kind, namespace, labels=labels, fields=fields).items
        except KindMissing:
            return []
        except Forbidden as error:
            if namespace:
                raise
            raise OpsError(f"{error.message} Or set namespaces, so that not all of them are searched.") from None
    return found
