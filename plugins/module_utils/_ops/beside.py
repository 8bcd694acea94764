# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""All that may matter beside a service that is inspected: the way its requests take, and what its pods depend on.

Read by namespace, not by service. Of Secrets only the metadata are read: when they last changed, never what they hold.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from ansible_collections.gpuops.nim.plugins.module_utils._kube.watch import Query
from ansible_collections.gpuops.nim.plugins.module_utils._nim import capacity, manifests, nimservice, states
from ansible_collections.gpuops.nim.plugins.module_utils._ops import gateway
from ansible_collections.gpuops.nim.plugins.module_utils._ops.around import ABOUT_CLAIMS, said_of_claim, told
from ansible_collections.gpuops.nim.plugins.module_utils._ops.reader import Objects, Reader

Object = Mapping[str, Any]

BY_NAME = 5  # more nodes or volumes than this are asked for all at once
SLICE_OF = "kubernetes.io/service-name"
_ABOUT_NODES = "involvedObject.kind=Node"
_NODE_EVENTS = "default"  # the namespace of events about what has none


def traffic_queries(space: str | None, *, of_operator: bool) -> list[Query]:
    """What has to be read of a namespace to know how requests reach its services."""
    labels = [manifests.ISVC_LABEL, *([nimservice.MADE_BY_OPERATOR] if of_operator else ())]
    return [
        Query("networking.k8s.io/v1", "Ingress", space),
        Query("autoscaling/v2", "HorizontalPodAutoscaler", space),
        *(Query("v1", "Service", space, labels=label) for label in labels),
        *(Query("discovery.k8s.io/v1", "EndpointSlice", space, labels=label) for label in labels),
    ]


def trouble_queries(space: str | None) -> list[Query]:
    """What most services that are not well need of their namespace."""
    return [Query("v1", "PersistentVolumeClaim", space), Query("v1", "Event", space, fields=ABOUT_CLAIMS)]


def secret_query(space: str | None) -> Query:
    """To be read with ``metadata_only``."""
    return Query("v1", "Secret", space)


class Beside:
    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._gateways: dict[str, dict[str, str]] = {}

    def traffic(self, service: Object, workload: Object | None, *, of_operator: bool) -> dict[str, Any]:
        """The fields of `findings.Around` on the way of the requests; `traffic_queries` should have been read."""
        namespace, name = service["metadata"]["namespace"], service["metadata"]["name"]
        label = nimservice.MADE_BY_OPERATOR if of_operator else manifests.ISVC_LABEL
        services = self._of(
            Query("v1", "Service", namespace, labels=label),
            lambda obj: _names_service(obj, name),
        )
        doors = {obj["metadata"]["name"] for obj in services or ()}
        slices = self._of(
            Query("discovery.k8s.io/v1", "EndpointSlice", namespace, labels=label),
            lambda obj: (obj["metadata"].get("labels") or {}).get(SLICE_OF) in doors,
        )
        ingresses = self._of(
            Query("networking.k8s.io/v1", "Ingress", namespace),
            lambda obj: _owned(obj, name) or not doors.isdisjoint(_backends(obj)),
        )
        # one that has its address has its controller
        lost = [ingress for ingress in ingresses or () if not states.ingress_address(ingress)]
        scaled = workload["metadata"]["name"] if workload else ""
        return {
            "services": services,
            "endpoint_slices": slices if services is not None else None,
            "autoscalers": self._of(
                Query("autoscaling/v2", "HorizontalPodAutoscaler", namespace),
                lambda obj: obj["spec"]["scaleTargetRef"]["name"] == scaled,
            ),
            "ingresses": ingresses,
            "ingress_classes": self._reader.get(Query("networking.k8s.io/v1", "IngressClass", None)) if lost else None,
        }

    def address(self, service: Object, workload: Object | None, *, of_operator: bool) -> str:
        """Where the service's ingress controller, or its Gateway, listens; empty where neither says it."""
        ingresses = self.traffic(service, workload, of_operator=of_operator)["ingresses"]
        if ingresses != [] or of_operator:
            return next(filter(None, map(states.ingress_address, ingresses or ())), "")
        namespace, url = (
            str(service["metadata"]["namespace"]),
            urlsplit(str((service.get("status") or {}).get("url") or "")),
        )
        if not url.hostname or url.hostname.endswith(".svc.cluster.local"):
            return ""
        if namespace not in self._gateways:
            self._gateways[namespace] = gateway.addresses(self._reader.client, namespace, url.scheme)
        return self._gateways[namespace].get(service["metadata"]["name"], "")

    def secrets(self, seen: states.Observed) -> dict[str, str]:
        """When each Secret that the pods name was last changed, empty for one that does not exist."""
        names = set(secrets_of(pod_of(seen)))
        query = secret_query(_namespace(seen))
        self._reader.read([query], metadata_only=True)
        there = self._reader.get(query)
        if there is None or not names:
            return {}
        changed = {secret["metadata"]["name"]: last_change(secret) for secret in there}
        return {name: changed.get(name, "") for name in sorted(names)}

    def trouble(self, seen: states.Observed) -> dict[str, Any]:
        """The fields on what its pods depend on, for a service that is not well."""
        pods = states.newest(seen)[1]
        waiting = [pod for pod in pods if states.condition(pod, "Ready").get("status") != "True"]
        homeless = [pod for pod in waiting if not pod.get("spec", {}).get("nodeName")]
        nodes = {str(pod["spec"]["nodeName"]) for pod in waiting if pod.get("spec", {}).get("nodeName")}
        claims, volumes = self._claims(_namespace(seen), set(states.mounted_claims(pod_of(seen))))
        return {
            "claims": claims,
            "volumes": volumes,
            # the scheduler's words tell what about nodes matters
            "nodes": self._nodes(nodes, everyone=told(homeless, "taint", "Insufficient")),
            "pods": self._everywhere() if told(homeless, "Insufficient") else (),
            "node_events": self._node_events(nodes) if nodes else (),
        }

    def _of(self, query: Query, mine: Callable[[Object], bool]) -> Objects | None:
        found = self._reader.get(query)
        return None if found is None else [obj for obj in found if mine(obj)]

    def _claims(
        self, namespace: str, names: Collection[str]
    ) -> tuple[dict[str, list[str]], dict[str, Mapping[str, Any]]]:
        """What is said of the claims that are not bound, and the volumes of those that are."""
        if not names:
            return {}, {}
        everything = self._reader.get(Query("v1", "PersistentVolumeClaim", namespace)) or ()
        mine = {claim["metadata"]["name"]: claim for claim in everything if claim["metadata"]["name"] in names}
        unbound = {name for name, claim in mine.items() if claim.get("status", {}).get("phase") != "Bound"}
        events = self._reader.get(Query("v1", "Event", namespace, fields=ABOUT_CLAIMS)) or () if unbound else ()
        claims = {
            name: said_of_claim(mine[name], [event for event in events if event["involvedObject"].get("name") == name])
            for name in sorted(unbound)
        }
        wanted = {str(claim["spec"]["volumeName"]): name for name, claim in mine.items() if name not in unbound}
        volumes = self._named("PersistentVolume", wanted)
        return claims, {wanted[name]: volume for name, volume in volumes.items()}

    def _nodes(self, names: Collection[str], *, everyone: bool) -> dict[str, Mapping[str, Any]]:
        if everyone:
            return {node["metadata"]["name"]: node for node in self._reader.get(Query("v1", "Node", None)) or ()}
        return self._named("Node", names)

    def _named(self, kind: str, names: Collection[str]) -> dict[str, Mapping[str, Any]]:
        queries = [Query("v1", kind, None, fields=f"metadata.name={name}") for name in sorted(names)]
        if len(names) > BY_NAME:
            queries = [Query("v1", kind, None)]
        self._reader.read(queries)
        found = [obj for query in queries for obj in self._reader.get(query) or ()]
        return {obj["metadata"]["name"]: obj for obj in found if obj["metadata"]["name"] in names}

    def _everywhere(self) -> Objects:
        return self._reader.get(Query("v1", "Pod", None, fields=capacity.NOT_OVER)) or []

    def _node_events(self, nodes: Collection[str]) -> Objects:
        found = self._reader.get(Query("v1", "Event", _NODE_EVENTS, fields=_ABOUT_NODES)) or ()
        return [event for event in found if event["involvedObject"].get("name") in nodes]


def pod_of(seen: states.Observed) -> Object:
    """The ``spec`` of the newest pods: of one that is there, else of their template."""
    template: Object = (seen.deployment or {}).get("spec", {}).get("template", {})
    return next(iter(states.newest(seen)[1]), template).get("spec", {})  # type: ignore[no-any-return]


def _namespace(seen: states.Observed) -> str:
    return str((seen.isvc or {}).get("metadata", {}).get("namespace", ""))


def secrets_of(pod: Object) -> Iterator[str]:
    """The names of the Secrets that a pod's ``spec`` mentions and can't do without."""
    for secret in pod.get("imagePullSecrets") or ():
        yield str(secret.get("name"))
    for volume in pod.get("volumes") or ():
        if name := (volume.get("secret") or {}).get("secretName"):
            yield str(name)
    for container in (*(pod.get("initContainers") or ()), *(pod.get("containers") or ())):
        asked = [variable.get("valueFrom", {}).get("secretKeyRef") for variable in container.get("env") or ()]
        asked += [source.get("secretRef") for source in container.get("envFrom") or ()]
        yield from (str(found["name"]) for found in asked if found and not found.get("optional"))


def last_change(obj: Object) -> str:
    """When an object was last written, as its managedFields say (RFC 3339)."""
    meta = obj["metadata"]
    times: Iterable[str] = (str(entry.get("time") or "") for entry in meta.get("managedFields") or ())
    return max([str(meta.get("creationTimestamp") or ""), *times])


def _names_service(obj: Object, name: str) -> bool:
    meta = obj["metadata"]
    return bool((meta.get("labels") or {}).get(manifests.ISVC_LABEL, meta["name"]) == name)


def _owned(obj: Object, name: str) -> bool:
    meta = obj["metadata"]
    if (meta.get("labels") or {}).get(manifests.SERVICE_LABEL) == name:
        return True
    kinds = (manifests.KIND, nimservice.KIND)
    return any(each["kind"] in kinds and each["name"] == name for each in meta.get("ownerReferences") or ())


def _backends(ingress: Object) -> Iterator[str]:
    for rule in ingress.get("spec", {}).get("rules") or ():
        for path in (rule.get("http") or {}).get("paths") or ():
            yield str((path.get("backend", {}).get("service") or {}).get("name"))
