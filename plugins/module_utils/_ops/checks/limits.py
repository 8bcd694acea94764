# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""What the namespace's quotas leave, and what its LimitRanges allow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ansible_collections.gpuops.nim.plugins.module_utils._nim import capacity, manifests, quantity, quota
from ansible_collections.gpuops.nim.plugins.module_utils._ops.checks.rows import Row, failure, ok
from ansible_collections.gpuops.nim.plugins.module_utils._ops.checks.scene import Scene, Wanted

Object = dict[str, Any]


def quotas(scene: Scene) -> Iterator[Row]:
    for namespace in scene.namespaces:
        if scene.missing(namespace):
            continue
        for each in scene.list("v1", "ResourceQuota", namespace):
            yield _judge(each, _adds(scene, namespace, each))


def _adds(scene: Scene, namespace: str, rule: Object) -> quota.Amounts:
    """What the services will use beyond what they use now. A pod that is replaced gives back what it has."""
    added: quota.Amounts = Counter()
    for service in scene.of(namespace):
        if quota.counts(rule, service.pod):
            for _replica in range(service.spec.scaling.least):
                added.update(quota.of_pod(service.pod))
        cache = service.spec.cache
        if cache and cache.size and cache.claim not in scene.claims(namespace):
            size = quota.thousandths(cache.size)
            added.update({"persistentvolumeclaims": 1000, "requests.storage": size})
            if cache.storage_class:
                added[f"{cache.storage_class}.storageclass.storage.k8s.io/requests.storage"] += size
                added[f"{cache.storage_class}.storageclass.storage.k8s.io/persistentvolumeclaims"] += 1000
    names = {service.name for service in scene.of(namespace) if scene.live(service)}
    if names:
        mine = scene.once(
            ("pods of services", namespace),
            lambda: (
                scene.client.list("v1", "Pod", namespace, labels=manifests.ISVC_LABEL, fields=capacity.NOT_OVER).items
            ),
        )
        for pod in mine:
            if pod["metadata"]["labels"][manifests.ISVC_LABEL] in names and quota.counts(rule, pod["spec"]):
                added.subtract(quota.of_pod(pod["spec"]))
    return added


def _judge(rule: Object, added: quota.Amounts) -> Row:
    title = f"ResourceQuota {rule['metadata']['namespace']}/{rule['metadata']['name']}"
    status = rule.get("status") or {}
    hard, used = status.get("hard") or rule["spec"].get("hard") or {}, status.get("used") or {}
    short = []
    for name, limit in hard.items():
        left = quota.thousandths(limit) - quota.thousandths(used.get(name, "0"))
        if added[name] > max(left, 0):
            short.append(f"{_text(name, added[name])} more {name} wanted, {_text(name, left)} of {limit} left")
    if not short:
        return ok("quota", title, "leaves enough")
    remedy = (
        f"Raise the quota, ask for less, or remove what is not needed: `kubectl -n {rule['metadata']['namespace']} "
        f"describe quota {rule['metadata']['name']}`."
    )
    return failure("quota", title, "; ".join(short), remedy)


def _text(name: str, amount: int) -> str:
    if "memory" in name or ("storage" in name and not name.endswith("persistentvolumeclaims")):
        return f"{amount / 1000 / 2**30:.1f} GiB"
    return f"{amount / 1000:g}"


def ranges(scene: Scene) -> Iterator[Row]:
    for namespace in scene.namespaces:
        if scene.missing(namespace):
            continue
        for rule in scene.list("v1", "LimitRange", namespace):
            title = f"LimitRange {namespace}/{rule['metadata']['name']}"
            broken = [
                f"{service.name}: {text}"
                for service in scene.of(namespace)
                for text in outside(rule["spec"]["limits"], service)
            ]
            if broken:
                remedy = (
                    "Ask for a size within it (cpu, memory, cache.size), or have it changed: "
                    f"`kubectl -n {namespace} describe limitrange {rule['metadata']['name']}`."
                )
                yield failure("limits", title, "; ".join(broken), remedy)
            else:
                yield ok("limits", title, "allows the services' sizes")


def outside(limits: Iterable[Mapping[str, Any]], service: Wanted) -> Iterator[str]:
    """What a LimitRange refuses of the service's pods and of the claim that is to be made."""
    cache = service.spec.cache
    for limit in limits:
        if limit["type"] == "Container":
            for container in service.pod["containers"]:
                resources = container.get("resources") or {}
                yield from _outside(limit, resources.get("requests") or {}, resources.get("limits") or {})
        elif limit["type"] == "Pod":
            yield from _outside(
                limit,
                _plain(capacity.requests(service.pod)),
                _plain(capacity.requests(quota.with_limits_only(service.pod))),
            )
        elif limit["type"] == "PersistentVolumeClaim" and cache and cache.size:
            yield from _outside(limit, {"storage": cache.size}, {"storage": cache.size})


def _plain(amounts: quota.Amounts) -> dict[str, str]:
    """As quantities that people read."""
    return {
        name: f"{amount / 1000 / 2**20:g}Mi" if name == "memory" else f"{amount / 1000:g}"
        for name, amount in amounts.items()
    }


def _outside(limit: Mapping[str, Any], requests: Mapping[str, Any], limits: Mapping[str, Any]) -> Iterator[str]:
    kind = limit["type"]
    for name, most in (limit.get("max") or {}).items():
        if name in limits and quantity.parse(limits[name]) > quantity.parse(most):
            yield f"{name} {limits[name]} is more than {most}, the most for a {kind}"
    for name, least in (limit.get("min") or {}).items():
        if name in requests and quantity.parse(requests[name]) < quantity.parse(least):
            yield f"{name} {requests[name]} is less than {least}, the least for a {kind}"
    for name, ratio in (limit.get("maxLimitRequestRatio") or {}).items():
        if name in limits and name in requests:
            found = quantity.parse(limits[name]) / quantity.parse(requests[name])
            if found > quantity.parse(ratio):
                yield f"the limit of {name} is {found:.1f} times its request, more than {ratio}, the most for a {kind}"
