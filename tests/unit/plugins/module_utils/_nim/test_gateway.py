# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.gpuops.nim.plugins.module_utils._nim import gateway

Object = dict[str, Any]
IP, NAME = {"type": "IPAddress", "value": "192.0.2.1"}, {"type": "Hostname", "value": "lb.example.com"}
HTTP, HTTPS = {"protocol": "HTTP", "port": 80}, {"protocol": "HTTPS", "port": 8443}


def route(*parents: Object) -> Object:
    return {"metadata": {"name": "llama", "namespace": "models"}, "spec": {"parentRefs": list(parents)}}


@pytest.mark.parametrize(
    ("parents", "found"),
    [
        ([{"name": "g", "namespace": "infra"}], ("infra", "g")),
        ([{"name": "g", "kind": "Gateway"}], ("models", "g")),
        ([{"name": "s", "kind": "Service"}, {"name": "g"}], ("models", "g")),
        ([], None),
    ],
)
def test_whose_route_it_is(parents: list[Object], found: tuple[str, str] | None) -> None:
    assert gateway.parent(route(*parents)) == found


@pytest.mark.parametrize(
    ("addresses", "listeners", "scheme", "found"),
    [
        ([IP], [HTTP, HTTPS], "http", "192.0.2.1"),
        ([IP], [HTTP, HTTPS], "https", "192.0.2.1:8443"),
        ([NAME, IP], [HTTP], "http", "lb.example.com"),
        ([{"value": "2001:db8::1"}], [{"protocol": "HTTP", "port": 8080}], "http", "[2001:db8::1]:8080"),
        ([{"type": "NamedAddress", "value": "pool-a"}, IP], [HTTP], "http", "192.0.2.1"),
        ([IP], [{"protocol": "HTTP", "port": 8080}, HTTP], "http", "192.0.2.1"),
        ([IP], [HTTP], "https", ""),
        ([], [HTTP], "http", ""),
        (None, [HTTP], "http", ""),
    ],
)
def test_where_it_listens(addresses: list[Object] | None, listeners: list[Object], scheme: str, found: str) -> None:
    status = {} if addresses is None else {"status": {"addresses": addresses}}
    assert gateway.address({"spec": {"listeners": listeners}, **status}, scheme) == found
