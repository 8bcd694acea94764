# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""Whether this user may do what the run will do; where not, the Role that allows it, ready to be applied."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, cast

from ansible_collections.gpuops.nim.plugins.module_utils._kube.client import PLURALS
from ansible_collections.gpuops.nim.plugins.module_utils._kube.errors import KubeError
from ansible_collections.gpuops.nim.plugins.module_utils._nim import extras as nim_extras
from ansible_collections.gpuops.nim.plugins.module_utils._nim import kserve_config, manifests
from ansible_collections.gpuops.nim.plugins.module_utils._ops import extras, wait
from ansible_collections.gpuops.nim.plugins.module_utils._ops.checks.rows import Row, failure, ok, warning
from ansible_collections.gpuops.nim.plugins.module_utils._ops.checks.scene import Scene, Wanted

WRITE = ("get", "create", "patch")  # an apply that makes the object needs create, too
_TOGETHER = 8  # questions at a time
_REVIEWS = "authorization.k8s.io/v1"

Object = dict[str, Any]


@dataclass(frozen=True)
class Right:
    """``namespace``: empty for the cluster; ``name``: of the only object it is for; ``needed``: without it the run
    fails, otherwise it only knows less.
    """

    namespace: str
    group: str
    resource: str
    verb: str
    name: str = ""
    needed: bool = True

    def __str__(self) -> str:
        resource = f"{self.resource}.{self.group}" if self.group else self.resource
        return f"{self.verb} {resource}" + (f" {self.name}" if self.name else "")


def _to(
    namespace: str, api_version: str, kind: str, *verbs: str, name: str = "", sub: str = "", needed: bool = True
) -> list[Right]:
    group = api_version.rpartition("/")[0]
    resource = PLURALS[kind] + sub
    # what is not there yet can't be asked for by its name
    return [
        Right(namespace, group, resource, verb, "" if verb in ("create", "list") else name, needed) for verb in verbs
    ]


def needs(scene: Scene) -> list[Right]:
    """Every right that secrets, services, the wait for them and the question to them use; each once."""
    found = list(_of_cluster(scene))
    for namespace in scene.namespaces:
        found += _of_namespace(scene, namespace)
    asked = {right for right in found if right.needed}
    return list(dict.fromkeys(r for r in found if r.needed or _necessary(r) not in asked))


def _necessary(right: Right) -> Right:
    return Right(right.namespace, right.group, right.resource, right.verb, right.name)


def _of_cluster(scene: Scene) -> Iterator[Right]:
    def look(api_version: str, kind: str, *verbs: str) -> list[Right]:
        return _to("", api_version, kind, *verbs, needed=False)

    yield from look("v1", "Namespace", "get")
    yield from look("v1", "Node", "list")
    yield from look("v1", "Pod", "list")
    if any(scene.missing(namespace) and _creates(scene, namespace) for namespace in scene.namespaces):
        yield from _to("", "v1", "Namespace", *WRITE)
    specs = [service.spec for service in scene.services]
    if any(spec.cache or spec.claims for spec in specs):
        yield from look("storage.k8s.io/v1", "StorageClass", "list")
        yield from look("v1", "PersistentVolume", "get")
    if any(spec.priority_class_name for spec in specs):
        yield from look("scheduling.k8s.io/v1", "PriorityClass", "get")
    if any(spec.runtime_class_name for spec in specs):
        yield from look("node.k8s.io/v1", "RuntimeClass", "get")
    yield from look("networking.k8s.io/v1", "IngressClass", "list")
    # its words: for the mode of a new service, and the class of an Ingress of our own
    new = [s for s in scene.services if s.entry.params["deployment_mode"] == "auto" and not scene.live(s)]
    config = bool(new or [spec for spec in specs if spec.endpoint_host])
    place = scene.params["kserve_namespace"]
    yield from _to(place, "v1", "ConfigMap", "get", name=kserve_config.NAME, needed=config)
    yield from _to(place, "apps/v1", "Deployment", "get", name="kserve-controller-manager", needed=False)


def _creates(scene: Scene, namespace: str) -> bool:
    return any(service.entry.params["create_namespace"] for service in scene.of(namespace))


def _of_namespace(scene: Scene, namespace: str) -> Iterator[Right]:
    services = scene.of(namespace)
    specs = [service.spec for service in services]
    for name in scene.params["own_secrets"]:
        yield from _to(namespace, "v1", "Secret", *WRITE, name=name)
    yield from _to(namespace, manifests.API_VERSION, manifests.KIND, *WRITE, "list")
    for query in wait.queries([namespace]):
        yield from _to(namespace, query.api_version, query.kind, "list", "watch")
    # what a wait does about pods that were stuck before, and what it quotes
    yield from _to(namespace, "v1", "Pod", "delete", needed=False)
    yield from _to(namespace, "v1", "Pod", "get", sub="/log", needed=False)
    yield from _to(namespace, "apps/v1", "ReplicaSet", "patch", needed=False)
    if any(spec.cache and spec.cache.size for spec in specs):
        yield from _to(namespace, "v1", "PersistentVolumeClaim", *WRITE, "list")
    elif any(spec.cache or spec.claims for spec in specs):
        yield from _to(namespace, "v1", "PersistentVolumeClaim", "list", needed=False)
    for service in services:
        for kind in service.extras:
            yield from _to(namespace, kind.api_version, kind.kind, *WRITE)
    if any(scene.live(service) for service in services):
        for kind in extras.unwanted(specs):  # what a service had and has no more
            yield from _to(namespace, kind.api_version, kind.kind, "list", "get", "delete", needed=False)
    if any(service.entry.params["adopt"] for service in services):  # arena's book
        yield from _to(namespace, "v1", "ConfigMap", "get", "delete")
    yield from _around(namespace, services)


def _around(namespace: str, services: Sequence[Wanted]) -> Iterator[Right]:
    """Names that are taken, limits, certificates, and the way in."""
    for api_version, kind in (
        ("v1", "Service"),
        ("autoscaling/v2", "HorizontalPodAutoscaler"),
        ("v1", "ResourceQuota"),
        ("v1", "LimitRange"),
    ):
        yield from _to(namespace, api_version, kind, "list", needed=False)
    yield from _to(namespace, nim_extras.ENDPOINT.api_version, "Ingress", "list", "get", needed=False)
    if any(not service.entry.params["ingress_address"] for service in services):
        yield from _to(namespace, "v1", "Service", "get", "create", sub="/proxy", needed=False)
    for service in services:
        if service.spec.tls_secret:
            yield from _to(namespace, "v1", "Secret", "get", name=service.spec.tls_secret, needed=False)


# -- asking


def lacking(scene: Scene) -> list[Right]:
    """The rights of `needs` that this user doesn't have."""
    return cast("list[Right]", scene.once("rights", lambda: _lacking(scene)))


def _lacking(scene: Scene) -> list[Right]:
    if _allowed(scene, Right("", "*", "*", "*")):  # an administrator
        return []
    rights = needs(scene)
    with ThreadPoolExecutor(_TOGETHER, thread_name_prefix="rights") as pool:
        allowed = pool.map(lambda right: _allowed(scene, right), rights)
        return [right for right, may in zip(rights, allowed) if not may]


def _allowed(scene: Scene, right: Right) -> bool:
    resource, _slash, subresource = right.resource.partition("/")
    attributes = {
        "namespace": right.namespace,
        "group": right.group,
        "resource": resource,
        "subresource": subresource,
        "verb": right.verb,
        "name": right.name,
    }
    spec = {"resourceAttributes": {key: value for key, value in attributes.items() if value}}
    review = {"apiVersion": _REVIEWS, "kind": "SelfSubjectAccessReview", "spec": spec}
    return bool(scene.client.create(review)["status"].get("allowed"))


def _user(scene: Scene) -> str:
    """Who the API server takes us for; empty where it is too old to tell (before 1.28)."""

    def ask() -> str:
        review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
        try:
            return str(scene.client.create(review)["status"]["userInfo"]["username"])
        except KubeError:
            return ""

    return cast(str, scene.once("user", ask))


def check(scene: Scene) -> list[Row]:
    found = []
    missing = lacking(scene)
    user = f"user {_user(scene)}" if missing else "this user"
    for place in dict.fromkeys(["", *scene.namespaces, scene.params["kserve_namespace"]]):
        here = f"namespace {place}" if place else "the cluster"
        needed = [right for right in missing if right.namespace == place and right.needed]
        useful = [right for right in missing if right.namespace == place and not right.needed]
        if needed:
            remedy = "Have an administrator apply the Role of this result (`role`)."
            found.append(failure("rights", here, f"{user} may not {_listed(needed)}", remedy))
        if useful:
            said = f"{user} may not {_listed(useful)}; the run works without, but sees less"
            found.append(warning("rights", here, said, "The result's `role` has these rights, too."))
    if not any(right.needed for right in missing):
        found.insert(0, ok("rights", "all that the run does", f"{user} may do it"))
    return found


def _listed(rights: Iterable[Right]) -> str:
    verbs: dict[str, list[str]] = {}
    for right in rights:
        _verb, _space, rest = str(right).partition(" ")
        verbs.setdefault(rest, []).append(right.verb)
    return "; ".join(f"{', '.join(each)} {rest}" for rest, each in verbs.items())


# -- what grants them


def role(scene: Scene) -> str:
    """Roles and bindings, as YAML, for each place where something is missing: all of what is used there."""
    try:
        missing = lacking(scene)
    except KubeError:  # a row says so
        return ""
    if not missing:
        return ""
    import yaml

    user = _user(scene)
    # others may have Roles of their own
    name = f"gpuops-nim-{re.sub('[^a-z0-9]+', '-', user.lower())}".strip("-")
    rights = needs(scene)
    documents: list[Object] = []
    for place in dict.fromkeys(right.namespace for right in missing):
        if place and scene.missing(place):
            documents.append(manifests.namespace(place))
        documents += _role(name, place, [right for right in rights if right.namespace == place], _subject(user))
    return str(yaml.safe_dump_all(documents, sort_keys=False))


def _subject(user: str) -> Object:
    parts = user.split(":")
    if parts[:2] == ["system", "serviceaccount"] and len(parts) == 4:
        return {"kind": "ServiceAccount", "name": parts[3], "namespace": parts[2]}
    return {"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": user or "REPLACE-WITH-THE-USER"}


def _role(name: str, namespace: str, rights: Sequence[Right], subject: Object) -> list[Object]:
    kind = "Role" if namespace else "ClusterRole"
    metadata = {"name": name, **({"namespace": namespace} if namespace else {})}
    group = "rbac.authorization.k8s.io"
    return [
        {"apiVersion": f"{group}/v1", "kind": kind, "metadata": metadata, "rules": _rules(rights)},
        {
            "apiVersion": f"{group}/v1",
            "kind": f"{kind}Binding",
            "metadata": dict(metadata),
            "roleRef": {"apiGroup": group, "kind": kind, "name": name},
            "subjects": [dict(subject)],
        },
    ]


def _rules(rights: Sequence[Right]) -> list[Object]:
    """One rule for all names that have the same verbs, and for all resources of a group that have."""
    verbs: dict[tuple[str, str, str], list[str]] = {}
    for right in rights:
        verbs.setdefault((right.group, right.resource, right.name), []).append(right.verb)
    names: dict[tuple[str, str, tuple[str, ...]], list[str]] = {}
    for (group, resource, name), allowed in verbs.items():
        names.setdefault((group, resource, tuple(dict.fromkeys(allowed))), []).append(name)
    rules: dict[tuple[str, tuple[str, ...], tuple[str, ...]], list[str]] = {}
    for (group, resource, allowed_verbs), named in names.items():
        rules.setdefault((group, allowed_verbs, tuple(filter(None, named))), []).append(resource)
    return [
        {
            "apiGroups": [group],
            "resources": resources,
            **({"resourceNames": list(named)} if named else {}),
            "verbs": list(allowed_verbs),
        }
        for (group, allowed_verbs, named), resources in rules.items()
    ]
