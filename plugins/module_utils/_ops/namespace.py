# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""The namespace that others' objects go into."""

from __future__ import annotations

from typing import Optional

from ansible_collections.gpuops.nim.plugins.module_utils._kube.apply import Change, ensure
from ansible_collections.gpuops.nim.plugins.module_utils._kube.client import Client
from ansible_collections.gpuops.nim.plugins.module_utils._kube.errors import Forbidden
from ansible_collections.gpuops.nim.plugins.module_utils._nim import manifests
from ansible_collections.gpuops.nim.plugins.module_utils._ops.result import OpsError


def ensure_namespace(client: Client, name: str, *, create: bool, check_mode: bool) -> Optional[Change]:
    """Makes the namespace if it is missing and ``create`` says so. One that exists is left as it is.

    :returns: what was made, None if nothing.
    :raises OpsError: it is missing and ``create`` is false.
    """
    try:
        if client.get("v1", "Namespace", name):
            return None
    except Forbidden:
        # who may work in a namespace often may not look at it; if it is missing, the first object in it will say so
        return None
    if not create:
        raise OpsError(f"There is no namespace {name}. Correct the name, or set create_namespace: true.")
    return ensure(client, manifests.namespace(name), check_mode=check_mode)
