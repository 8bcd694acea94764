# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""Options of the service as a whole: its serving runtime, how it is reached, and what arena has but KServe has not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from .check import SUBDOMAIN, Check
from .volumes import STORAGE_PATH, Cache

# arena's flags that do nothing there, or nothing without Knative: option, the value that means nothing, what to do
_NOT_IN_ARENA = "has no effect in arena either; "
_KNATIVE = "needs Knative, which is not used here; "
_REFUSED: tuple[tuple[str, Any, str], ...] = (
    ("version", "", _NOT_IN_ARENA + "the release is the tag of image, and model_version a label of your own"),
    ("data_dir", [], _NOT_IN_ARENA + "a folder of the node is no place for models; use cache or data"),
    ("data_subpath_expr", [], _NOT_IN_ARENA + "set sub_path_expr in the entry of data"),
    ("temp_dir_subpath_expr", [], _NOT_IN_ARENA + "a new folder has nothing in it to choose; leave it out"),
    ("enable_istio", False, _NOT_IN_ARENA + "Istio belongs to the cluster's KServe, not to a service"),
    (
        "expose_service",
        False,
        _NOT_IN_ARENA + "KServe makes an Ingress for every service; endpoint_host gives it a name of your own",
    ),
    (
        "container_concurrency",
        0,
        _KNATIVE + "NIM queues requests itself; scale on them with scale_metric: num_requests_waiting",
    ),
    (
        "canary_traffic_percent",
        -1,
        _KNATIVE + "deploy the new release as a service of its own and move the clients to it",
    ),
)


@dataclass(frozen=True)
class Model:
    """KServe's ``predictor.model``: a container made of a serving runtime."""

    name: str
    version: str | None
    runtime: str | None
    runtime_version: str | None
    storage_uri: str | None
    protocol_version: str | None


def refused(check: Check) -> None:
    for option, nothing, text in _REFUSED:
        if check.params.get(option) not in (None, nothing):
            check.bad(option, text)


def model(check: Check, cache: Cache | None) -> Model | None:
    text = str(check.params.get("model_format") or "")
    rest = {
        option: str(check.params.get(option) or "") or None
        for option in ("runtime", "runtime_version", "storage_uri", "protocol_version")
    }
    if not text:
        for option, value in rest.items():
            if value:
                check.bad(option, "belongs to a serving runtime, so it needs model_format")
        return None
    name, _colon, version = text.partition(":")
    if not name or ":" in version or text.endswith(":"):
        check.bad("model_format", f"{text!r} is not NAME or NAME:VERSION; for example nvidia-nim-llama3-8b-instruct")
    if rest["runtime"]:
        check.name("runtime", rest["runtime"], "a runtime")
    uri = rest["storage_uri"]
    if uri and not urlsplit(uri).scheme:
        check.bad("storage_uri", f"{uri!r} has no scheme; for example pvc://nim-model/")
    elif uri and cache and cache.path.rstrip("/") == STORAGE_PATH:
        check.bad("storage_uri", f"is mounted at {STORAGE_PATH}, where cache already is; leave one of them out")
    return Model(name, version or None, rest["runtime"], rest["runtime_version"], uri, rest["protocol_version"])


def endpoint_host(check: Check) -> str | None:
    value = str(check.params.get("endpoint_host") or "")
    if value and (not SUBDOMAIN.fullmatch(value) or len(value) > 253 or value.rpartition(".")[2].isdigit()):
        check.bad(
            "endpoint_host",
            f"{value!r} is not a DNS name: lower-case letters, digits, '-' and '.', without scheme and port; "
            "for example llama.example.com",
        )
    return value or None


def tls_secret(check: Check) -> str | None:
    value = check.name_or_none("tls_secret")
    if value and not check.params.get("endpoint_host"):
        check.bad("tls_secret", "is for a name of your own, so it needs endpoint_host, the name in the certificate")
    return value


def ingress_address(check: Check) -> None:
    value = str(check.params.get("ingress_address") or "")
    try:
        parts = urlsplit(value if "://" in value else f"http://{value}")
        right = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # what urlsplit says of a port that is no number
        right = False
    if value and not right:
        check.bad("ingress_address", f"{value!r} is not an address; host:port, or a URL such as https://host:port")


def labels(check: Check) -> dict[str, str]:
    """Return the labels, with arena's two for the model."""
    found = check.metadata("labels")
    for option, key in (("model_name", "modelName"), ("model_version", "modelVersion")):
        value = str(check.params.get(option) or "")
        if not value:
            continue
        check.label_value(option, value)
        if found.setdefault(key, value) != value:
            check.bad("labels", f"{key} is {found[key]}, and the option {option} is {value}; leave it in one of them")
    return found
