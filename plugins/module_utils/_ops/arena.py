# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""What arena leaves beside a service that was taken over from it."""

from __future__ import annotations

from collections.abc import Collection

from ansible_collections.gpuops.nim.plugins.module_utils._kube.apply import Change, ensure_absent
from ansible_collections.gpuops.nim.plugins.module_utils._kube.client import Client

_BOOK_KEYS = {"app", "kserve", "values"}


def tidy(
    client: Client, namespace: str, name: str, wanted: Collection[tuple[str, str]], *, check_mode: bool
) -> list[Change]:
    """Delete arena's bookkeeping of the service, and what it made beside it unless (kind, name) is ``wanted``.

    The ConfigMap with the bookkeeping goes last: as long as it is there, a run that was cut off goes on here.
    """
    book = f"{name}-kserve"
    found = client.get("v1", "ConfigMap", book, namespace)
    if found is None or not set(found.get("data") or {}) >= _BOOK_KEYS:
        return []
    beside = (
        ("autoscaling/v2", "HorizontalPodAutoscaler", f"{name}-hpa"),
        ("monitoring.coreos.com/v1", "ServiceMonitor", f"{name}-svcmonitor"),
        ("v1", "Service", f"{name}-metric-svc"),
        ("v1", "ConfigMap", book),
    )
    return [
        ensure_absent(client, api_version, kind, called, namespace, check_mode=check_mode, adopt=True)
        for api_version, kind, called in beside
        if (kind, called) not in wanted
    ]
