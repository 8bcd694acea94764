# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""How the services of a task are reached: URL, address and a line that asks them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import urlsplit

from ansible_collections.gpuops.nim.plugins.module_utils._kube.errors import KubeError
from ansible_collections.gpuops.nim.plugins.module_utils._nim import contract, extras, states
from ansible_collections.gpuops.nim.plugins.module_utils._nim.spec import ServiceSpec
from ansible_collections.gpuops.nim.plugins.module_utils._ops import gateway
from ansible_collections.gpuops.nim.plugins.module_utils._ops.task import Service, Task, by_namespace

Object = dict[str, Any]
# The bodies of the curl line, one for each way to ask.
_USAGE: dict[str, tuple[str, Callable[[str], Object]]] = {
    "chat": (
        "/v1/chat/completions",
        lambda model: {"model": model, "messages": [{"role": "user", "content": "What is a GPU?"}], "max_tokens": 64},
    ),
    "embeddings": (
        "/v1/embeddings",
        lambda model: {"model": model, "input": ["What is a GPU?"], "input_type": "query"},
    ),
    "ranking": (
        "/v1/ranking",
        lambda model: {"model": model, "query": {"text": "A GPU?"}, "passages": [{"text": "A graphics processor."}]},
    ),
}


def fill_in(task: Task, services: Iterable[Service]) -> None:
    """Fill in how to reach the services: from their status, the options, and the Ingress or the Gateway where neither
    says it.
    """
    addresses: dict[str, dict[str, str]] = {}
    gateways: dict[str, dict[str, str]] = {}
    for namespace, mine in by_namespace(services).items():
        isvcs: dict[str, Object] = {}
        if (
            any(not (s.spec.endpoint or ((s.isvc or {}).get("status") or {}).get("url")) for s in mine)
            and not task.check_mode
        ):
            isvcs = task.live(namespace)
        for service in mine:
            status = (isvcs.get(service.name) or service.isvc or {}).get("status") or {}
            url = service.spec.endpoint or str(status.get("url") or "")
            inside = "" if service.spec.endpoint else str((status.get("address") or {}).get("url") or "")
            local = not url or (urlsplit(url).hostname or "").endswith(".svc.cluster.local")
            given = address = str(service.entry.params["ingress_address"] or "")
            if not address and not local:
                if namespace not in addresses:
                    addresses[namespace] = _ingresses(task, namespace)
                ours = service.spec.endpoint_host is not None
                ingress = extras.ENDPOINT.name(service.name) if ours else service.name
                if not ours and ingress not in addresses[namespace] and namespace not in gateways:
                    gateways[namespace] = gateway.addresses(task.client, namespace, urlsplit(url).scheme)
                address = addresses[namespace].get(ingress) or gateways.get(namespace, {}).get(ingress, "")
            service.reach = _words(service.spec, url, inside, "" if local else address, bool(given))


def _ingresses(task: Task, namespace: str) -> dict[str, str]:
    try:
        found = task.client.list(extras.ENDPOINT.api_version, "Ingress", namespace).items
    except KubeError:  # the address is a convenience; its absence must not fail a deployment
        return {}
    return {ingress["metadata"]["name"]: states.ingress_address(ingress) for ingress in found}


def _words(wanted: ServiceSpec, url: str, inside: str, address: str, given: bool) -> dict[str, Any]:
    """Return url, address, host and the curl line of the usage page; an empty status gives only what is known.

    ``given``: the address is the user's word, so a name that doesn't lead there must not matter.
    """
    host = urlsplit(url).netloc
    base, option = inside or url, ""
    if address:
        door = urlsplit(address if "://" in address else f"{urlsplit(url).scheme or 'http'}://{address}")
        base = door.geturl().rstrip("/")
        if door.scheme == "https" and host:  # the certificate is for the name, so that stays in the URL
            url = base = f"https://{host}" + (f":{door.port}" if door.port not in (None, 443) else "")
            option = f" --connect-to ::{door.netloc}" if given else ""
        elif host:
            option = f" -H 'Host: {host}'"
    path, body = _USAGE[contract.api_of(wanted.image)]
    data = json.dumps(body(wanted.model))
    ask = f"{path}{option} -H 'Content-Type: application/json' -d '{data}'" if wanted.model else f"/v1/models{option}"
    curl = f"curl -s {base}{ask}" if base else None
    return {"url": url or None, "address": address or None, "host": host or None, "curl": curl}
