# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""The way to a namespace's services where KServe makes HTTPRoutes for a Gateway in place of Ingresses."""

from __future__ import annotations

from typing import Any

from ansible_collections.gpuops.nim.plugins.module_utils._kube.client import Client
from ansible_collections.gpuops.nim.plugins.module_utils._kube.errors import KubeError
from ansible_collections.gpuops.nim.plugins.module_utils._nim import gateway

Object = dict[str, Any]


def addresses(client: Client, namespace: str, scheme: str) -> dict[str, str]:
    """Where the Gateway of each service listens, by the service's name: KServe gives the HTTPRoute the same one.

    :param scheme: of the services' URLs, which is one setting of KServe's.

    Nothing where it can't be read: an address is a convenience, and few may look into a Gateway's namespace.
    """
    gateways: dict[tuple[str, str], Object] = {}
    found: dict[str, str] = {}
    try:
        for route in client.list(gateway.API_VERSION, "HTTPRoute", namespace, retry=False).items:
            parent = gateway.parent(route)
            if parent and parent not in gateways:
                gateways[parent] = client.get(gateway.API_VERSION, "Gateway", parent[1], parent[0]) or {}
            if parent and gateways[parent]:
                found[route["metadata"]["name"]] = gateway.address(gateways[parent], scheme)
    except KubeError:
        pass
    return found
