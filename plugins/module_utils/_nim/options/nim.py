# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""Options that NIM itself reads, as variables of its container."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from .. import contract
from .check import Check
from .volumes import TRUST_BUNDLE, CaBundle, Cache

_INSIDE = ("localhost", "127.0.0.1", ".svc", ".cluster.local")  # never by a proxy
_MIRRORS = ("https", "http", "s3", "gs", "jfrog")


def settings(
    check: Check, promise: contract.Contract, port: int, cache: Cache | None, ca: CaBundle | None
) -> dict[str, str]:
    """Return the variables that follow from other options than ``env``."""
    found: dict[str, str] = {}
    if cache:
        found["NIM_CACHE_PATH"] = cache.path
    if port != contract.CONTAINER_PORT:
        found["NIM_SERVER_PORT"] = str(port)
        found["NIM_HTTP_API_PORT"] = str(port)  # what NIMs that are no language models call it
    if chosen := profile(check):
        found["NIM_MODEL_PROFILE"] = chosen
    if mirror := _repository_override(check, promise):
        found["NIM_REPOSITORY_OVERRIDE"] = mirror
    found.update(_proxy(check))
    if ca:
        found["SSL_CERT_FILE"] = found["REQUESTS_CA_BUNDLE"] = TRUST_BUNDLE
        found["NIM_SDK_USE_NATIVE_TLS"] = "1"  # else the downloader of 1.x trusts its own list alone
    return found


def profile(check: Check) -> str:
    """Return the model profile, by its id or name; empty where NIM chooses."""
    given = str(check.params.get("model_profile") or "")
    if given and not re.fullmatch(r"[\w.:+-]+", given):
        check.bad(
            "model_profile",
            f"{given!r} is not a profile; its 64-digit id or its name, as list-model-profiles in the image shows them",
        )
    return given


def agree(
    check: Check, env: Mapping[str, str], references: Mapping[str, Any], found: Mapping[str, str], port: int
) -> None:
    """Refuse variables that say something else than the option they belong to."""
    for name in ("NIM_SERVER_PORT", "NIM_HTTP_API_PORT"):
        if name in env and env[name] != str(port):
            check.bad("env", f"{name} is {env[name]} and the option port is {port}; set port alone, {name} follows")
    for name, value in found.items():
        option = _OPTION_OF.get(name.upper())
        if option and (name in references or env.get(name, value) != value):
            where = "env_from_secret" if name in references else "env"
            check.bad(where, f"{name} is what the option {option} sets; leave it in one of them")


_OPTION_OF = {
    "NIM_MODEL_PROFILE": "model_profile",
    "NIM_REPOSITORY_OVERRIDE": "repository_override",
    "HTTP_PROXY": "pod_proxy",
    "HTTPS_PROXY": "pod_proxy",
    "NO_PROXY": "pod_proxy",
    "SSL_CERT_FILE": "ca_bundle",
    "REQUESTS_CA_BUNDLE": "ca_bundle",
    "NIM_SDK_USE_NATIVE_TLS": "ca_bundle",
}


def _repository_override(check: Check, promise: contract.Contract) -> str:
    value = str(check.params.get("repository_override") or "")
    if not value:
        return value
    parts = urlsplit(value)
    if parts.scheme not in _MIRRORS or not parts.netloc:
        check.bad(
            "repository_override",
            f"{value!r} is not a mirror; https://HOST:PORT/, s3://BUCKET/ or jfrog://HOST:PORT/",
        )
    elif "@" in parts.netloc:
        check.bad("repository_override", "holds a password; whoever reads the pod could read it. Give it without")
    elif not promise.repository_override:
        check.bad(
            "repository_override",
            f"a NIM of the {promise.line} line does not know it and would download from NGC all the same; take an "
            "image of 1.2 or later, or fill the cache beforehand",
        )
    return value


def _proxy(check: Check) -> dict[str, str]:
    given = check.params.get("pod_proxy") or {}
    found: dict[str, str] = {}
    for scheme in ("http", "https"):
        value = str(given.get(scheme) or "")
        if not value:
            continue
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            check.bad(f"pod_proxy.{scheme}", f"{value!r} is not a proxy; for example http://proxy.example.com:3128")
        elif "@" in parts.netloc:
            variable = f"{scheme.upper()}_PROXY"
            check.bad(
                f"pod_proxy.{scheme}",
                "holds a password, which whoever reads the pod could read; put the whole address into a Secret and "
                f"name it in env_from_secret, as {variable} and {variable.lower()}",
            )
            continue
        found[f"{scheme.upper()}_PROXY"] = value
    if not found:
        if given.get("no_proxy") and not (given.get("http") or given.get("https")):
            check.bad("pod_proxy.no_proxy", "says where no proxy is asked, so it needs https, http or both beside it")
        return {}
    besides = [str(name).strip() for name in given.get("no_proxy") or ()]
    found["NO_PROXY"] = ",".join(dict.fromkeys([*besides, *_INSIDE]))
    return {**found, **{name.lower(): value for name, value in found.items()}}
