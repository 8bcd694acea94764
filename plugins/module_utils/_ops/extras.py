# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""Making and removing the objects beside an InferenceService."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ansible_collections.gpuops.nim.plugins.module_utils._kube.apply import Change, ensure, ensure_absent
from ansible_collections.gpuops.nim.plugins.module_utils._kube.client import Client
from ansible_collections.gpuops.nim.plugins.module_utils._kube.errors import Forbidden, KindMissing
from ansible_collections.gpuops.nim.plugins.module_utils._nim import extras, manifests
from ansible_collections.gpuops.nim.plugins.module_utils._nim.extras import Kind
from ansible_collections.gpuops.nim.plugins.module_utils._nim.spec import ServiceSpec

Owners = Mapping[Kind, frozenset[str]]


def owners(client: Client, namespace: str, kinds: Iterable[Kind]) -> Owners:
    """Say for each kind which services of the namespace have an object of it from us.

    A kind that the cluster doesn't know is nobody's. So is one that we may not list: most services never have one, so
    they should not need the right.
    """
    found: dict[Kind, frozenset[str]] = {}
    for kind in kinds:
        try:
            live = client.list(
                kind.api_version, kind.kind, namespace, labels=manifests.SERVICE_LABEL, metadata_only=True
            ).items
        except (Forbidden, KindMissing):
            continue
        found[kind] = frozenset(obj["metadata"]["labels"][manifests.SERVICE_LABEL] for obj in live)
    return found


def unwanted(services: Iterable[ServiceSpec]) -> list[Kind]:
    """Return the kinds that at least one of these services does without."""
    wanted = [set(extras.of(service)) for service in services]
    return [kind for kind in extras.KINDS if not all(kind in kinds for kinds in wanted)]


def make(
    client: Client,
    spec: ServiceSpec,
    wanted: Mapping[Kind, Any],
    note: Callable[[Change], Any],
    *,
    before: bool,
    check_mode: bool,
    adopt: bool,
) -> list[str]:
    """Make those that are to be there ``before`` the InferenceService, or the others; return what deserves a word."""
    warnings = []
    for kind, obj in wanted.items():
        if kind.before != before:
            continue
        try:
            note(ensure(client, obj, check_mode=check_mode, adopt=adopt))
        except KindMissing:
            warnings.append(_no_operator(spec, kind))
    return warnings


def _no_operator(spec: ServiceSpec, kind: Kind) -> str:
    """Only the monitors are of kinds that a cluster may lack."""
    where = (
        f"Service {extras.METRICS.name(spec.name)}"
        if kind is extras.SERVICE_MONITOR
        else f"the pods of {spec.name}, port {spec.metrics_port},"
    )
    return (
        f"[{spec.namespace}/{spec.name}] enable_prometheus: the cluster has no {kind.kind} (the Prometheus operator is "
        f"not installed), so nothing scrapes {where} by itself; point Prometheus at it, path "
        f"{spec.contract.metrics_path}"
    )


def remove(
    client: Client,
    namespace: str,
    service: str,
    there: Owners,
    note: Callable[[Change], Any],
    *,
    wanted: Iterable[Kind] = (),
    check_mode: bool,
) -> None:
    """Remove those that are ``there`` and not wanted (any more)."""
    kept = set(wanted)
    for kind in reversed(extras.KINDS):
        if kind not in kept and service in there.get(kind, ()):
            note(
                ensure_absent(client, kind.api_version, kind.kind, kind.name(service), namespace, check_mode=check_mode)
            )
