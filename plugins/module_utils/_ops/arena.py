# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""What arena leaves beside a service that was taken over from it."""

from __future__ import annotations

from collections.abc import Collection

from ansible_collections.gpuops.nim.plugins.module_utils._kube.apply import Change, ensure_absent
from ansible_collections.gpuops.nim.plugins.module_utils._kube.client import Client
from ansible_collections.gpuops.nim.plugins.module_utils._nim import extras
from ansible_collections.gpuops.nim.plugins.module_utils._nim.extras import Kind

_BOOK = Kind("v1", "ConfigMap", "-kserve")
_BOOK_KEYS = {"app", "kserve", "values"}
# The bookkeeping goes last: as long as it is there, a run that was cut off goes on here.
_MADE_BY_ARENA = (extras.AUTOSCALER, extras.SERVICE_MONITOR, extras.METRICS, _BOOK)


def tidy(client: Client, namespace: str, name: str, wanted: Collection[Kind], *, check_mode: bool) -> list[Change]:
    """Delete arena's bookkeeping of the service, and what it made beside it of kinds that are not ``wanted``."""
    found = client.get(_BOOK.api_version, _BOOK.kind, _BOOK.name(name), namespace)
    if found is None or not set(found.get("data") or {}) >= _BOOK_KEYS:
        return []
    return [
        ensure_absent(
            client, kind.api_version, kind.kind, kind.name(name), namespace, check_mode=check_mode, adopt=True
        )
        for kind in _MADE_BY_ARENA
        if kind not in wanted
    ]
