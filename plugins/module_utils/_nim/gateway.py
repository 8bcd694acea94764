# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""What a Gateway says of the way to a service, where KServe makes HTTPRoutes in place of Ingresses. Pure."""

from __future__ import annotations

from typing import Any, Optional

Object = dict[str, Any]

API_VERSION = "gateway.networking.k8s.io/v1"
_USUAL = {"http": 80, "https": 443}


def parent(route: Object) -> Optional[tuple[str, str]]:
    """Namespace and name of the Gateway that the HTTPRoute is for."""
    for reference in route["spec"].get("parentRefs") or ():
        if reference.get("kind", "Gateway") == "Gateway":
            return reference.get("namespace") or route["metadata"]["namespace"], reference["name"]
    return None


def address(gateway: Object, scheme: str) -> str:
    """Where it listens for this scheme: a name or an IP address, with a port that is not the usual one; or nothing."""
    for point in (gateway.get("status") or {}).get("addresses") or ():
        place = str(point.get("value") or "")
        ports = [each["port"] for each in gateway["spec"]["listeners"] if each["protocol"] == scheme.upper()]
        if place and ports and point.get("type", "IPAddress") in ("IPAddress", "Hostname"):
            place = f"[{place}]" if ":" in place else place
            return place if _USUAL.get(scheme) in ports else f"{place}:{ports[0]}"
    return ""
