# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""Who looks after a service, in a word or two for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.gpuops.nim.plugins.module_utils._kube.ownership import helm_release, is_ours, managers
from ansible_collections.gpuops.nim.plugins.module_utils._nim import nimservice

KSERVES_CONTROLLER = "manager"  # which adds its finalizer


def managed_by(service: Mapping[str, Any]) -> str:
    """Who looks after a service, in a word or two: what it says of itself, else who wrote it last."""
    labels = service["metadata"].get("labels") or {}
    owners = service["metadata"].get("ownerReferences") or ()
    if service["kind"] == nimservice.KIND or any(each.get("kind") == nimservice.KIND for each in owners):
        return "NIM Operator"
    if is_ours(service):
        return "gpuops.nim"
    if labels.get("servingType") or "arena.kubeflow.org/username" in (service["metadata"].get("annotations") or {}):
        return "arena"
    if release := helm_release(service):
        return f"Helm release {release}"
    writers = [manager for manager in managers(service) if manager != KSERVES_CONTROLLER]
    return writers[0].partition("-client-side")[0].partition("-create")[0] if writers else ""
