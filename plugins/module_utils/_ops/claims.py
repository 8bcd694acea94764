# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""The claims for the models: found, made, and removed with the service they were made for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ansible_collections.gpuops.nim.plugins.module_utils._kube.apply import ensure, ensure_absent
from ansible_collections.gpuops.nim.plugins.module_utils._kube.errors import Forbidden, KindMissing
from ansible_collections.gpuops.nim.plugins.module_utils._kube.ownership import MANAGED_BY
from ansible_collections.gpuops.nim.plugins.module_utils._nim import manifests, quantity, states
from ansible_collections.gpuops.nim.plugins.module_utils._ops.result import OpsError
from ansible_collections.gpuops.nim.plugins.module_utils._ops.task import Service, Task

Object = dict[str, Any]


def of_namespace(task: Task, namespace: str, services: Sequence[Service]) -> dict[str, Object] | None:
    """The namespace's claims by name, read once; ``None`` where nobody asks or they can't be read."""
    if not any(service.spec.cache or service.spec.claims for service in services):
        return None
    try:
        return {
            claim["metadata"]["name"]: claim
            for claim in task.client.list("v1", "PersistentVolumeClaim", namespace).items
        }
    except Forbidden:
        if any(service.spec.cache and service.spec.cache.size for service in services):
            raise
        return None


def make(task: Task, service: Service, claims: dict[str, Object] | None) -> None:
    """Make the cache claim if it is to be made, once all the others are found.

    :raises OpsError: one is missing that is not to be made.
    """
    if claims is None:
        return
    for name, option in service.spec.claims.items():
        if name in claims:
            continue
        lacking = f"{option}: there is no claim {name} in namespace {service.namespace}"
        if not task.check_mode:
            right = "Make it, or set cache.size to have it made." if option == "cache.claim" else "Make it first."
            raise OpsError(f"{lacking}. {right}")
        service.warnings.append(f"[{service}] {lacking} yet")
    cache = service.spec.cache
    if cache is None or cache.size is None:
        return
    live = claims.get(cache.claim)
    if live is None:
        change = service.note(ensure(task.client, manifests.claim(service.spec), check_mode=task.check_mode))
        claims[cache.claim] = change.after or {
            "metadata": {"name": cache.claim},
            "spec": {"resources": {"requests": {"storage": cache.size}}},
        }
        return
    asked = (live["spec"].get("resources") or {}).get("requests", {}).get("storage", "0")
    if quantity.parse(cache.size) > quantity.parse(asked):
        service.warnings.append(
            f"[{service}] cache.size: claim {cache.claim} exists with {asked} and is left as it "
            f"is; {cache.size} was asked for"
        )


def remove(task: Task, service: Service) -> None:
    """Delete the claims that were made for this service and that no other service uses."""
    ours = ",".join(f"{key}={value}" for key, value in MANAGED_BY.items())
    claims = task.client.list("v1", "PersistentVolumeClaim", service.namespace, labels=ours, metadata_only=True).items
    named = (service.entry.params["cache"] or {}).get("claim")
    mine = [
        claim["metadata"]["name"]
        for claim in claims
        if claim["metadata"]["name"] == named
        or claim["metadata"]["labels"].get(manifests.SERVICE_LABEL) == service.name
    ]
    if not mine:
        return
    try:
        others = task.client.list(manifests.API_VERSION, manifests.KIND, service.namespace).items
    except KindMissing:
        others = []
    users = {
        claim: isvc["metadata"]["name"]
        for isvc in others
        if isvc["metadata"]["name"] != service.name
        for claim in states.claims_of(isvc)
    }
    for name in mine:
        if name in users:
            service.warnings.append(f"[{service}] claim {name} is kept: service {users[name]} uses it")
        else:
            service.note(
                ensure_absent(
                    task.client, "v1", "PersistentVolumeClaim", name, service.namespace, check_mode=task.check_mode
                )
            )
