# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""Makes a controller look at an object now. After failures it pauses, twice as long each time, up to 16 minutes."""

from __future__ import annotations

from typing import Any

from .client import FIELD_MANAGER, Client, api_path
from .errors import KubeError
from .ownership import MANAGED_BY

_MANAGER = f"{FIELD_MANAGER}-nudge"


def nudge(client: Client, live: dict[str, Any]) -> bool:
    """Changes nothing but the object's managedFields, twice: a field that it has is held by one more, then no more.

    False when that is not allowed, or nobody answers.
    """
    meta = live["metadata"]
    path = api_path(live["apiVersion"], live["kind"], meta.get("namespace"), meta["name"])
    name = {"apiVersion": live["apiVersion"], "kind": live["kind"], "metadata": {"name": meta["name"]}}
    held = {key: value for key, value in (meta.get("labels") or {}).items() if key in MANAGED_BY}
    if not held:  # nothing to hold without changing it
        return False
    for labels in ({"labels": held}, {}):
        try:
            client.request(
                "PATCH",
                path,
                query={"fieldManager": _MANAGER},
                body={**name, "metadata": {**name["metadata"], "uid": meta["uid"], **labels}},
                headers={"Content-Type": "application/apply-patch+yaml"},
                retry=False,
            )
        except KubeError:
            return False
    return True
