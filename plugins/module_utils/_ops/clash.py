# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""The names that KServe will use for a new service. It overwrites what others called so, and later deletes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.gpuops.nim.plugins.module_utils._kube.client import Client
from ansible_collections.gpuops.nim.plugins.module_utils._kube.errors import Forbidden, Foreign, KindMissing
from ansible_collections.gpuops.nim.plugins.module_utils._kube.ownership import owner
from ansible_collections.gpuops.nim.plugins.module_utils._nim import manifests

Taken = Mapping[tuple[str, str], Mapping[str, Any]]

_MADE_BY_KSERVE = (
    ("apps/v1", "Deployment", "-predictor"),
    ("v1", "Service", "-predictor"),
    ("autoscaling/v2", "HorizontalPodAutoscaler", "-predictor"),
    ("networking.k8s.io/v1", "Ingress", ""),
)


def taken(client: Client, namespace: str) -> Taken:
    """What others made in the namespace, by kind and name; kinds that may not be read are missing."""
    found = {}
    for version, kind, _suffix in _MADE_BY_KSERVE:
        try:
            objects = client.list(version, kind, namespace, metadata_only=True).items
        except (Forbidden, KindMissing):
            continue
        for obj in objects:
            if not any(of["kind"] == manifests.KIND for of in obj["metadata"].get("ownerReferences") or ()):
                found[kind, obj["metadata"]["name"]] = obj
    return found


def refuse(found: Taken, service: str) -> None:
    """Raises Foreign when a new service of that name would make KServe overwrite something."""
    for _version, kind, suffix in _MADE_BY_KSERVE:
        obj = found.get((kind, service + suffix))
        if obj:
            name = f"{obj['metadata']['namespace']}/{obj['metadata']['name']}"
            raise Foreign(
                f"{kind} {name} exists, and KServe would take it for its own: {owner(obj)}. "
                "Choose another name for the service, or remove it; with adopt: true KServe may have it."
            )
