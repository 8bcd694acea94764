# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""What a manifest, and the image's configuration behind it, tell about an image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Callable, Optional

from .transport import Reply, Trouble
from .verdict import ImageFacts

ACCEPT = ", ".join(
    (
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    )
)
DOWNLOAD_LABEL = "com.nvidia.nim.model_download_protocol"
FIRST = "amd64"

Json = dict[str, Any]
Ask = Callable[[str], Reply]
"""Asks for a path of the repository, such as ``/manifests/sha256:...``; raises Trouble."""


def read(reply: Reply, ask: Ask) -> ImageFacts:
    """The facts of the image whose manifest was answered. What can't be asked any more stays unknown."""
    manifest = _dict(reply.data)
    digest = reply.headers.get("docker-content-digest", "")
    architectures: tuple[str, ...] = ()
    if "manifests" in manifest:
        platforms = [(_text(_dict(one.get("platform")), "architecture"), one) for one in _list(manifest, "manifests")]
        # attestations hang on an index as images for no machine
        platforms = [(name, one) for name, one in platforms if name and name != "unknown"]
        architectures = tuple(dict.fromkeys(name for name, _one in platforms))
        chosen = next((one for name, one in platforms if name == FIRST), platforms[0][1] if platforms else {})
        manifest = _answer(ask, "/manifests/", _text(chosen, "digest"))
    config = _answer(ask, "/blobs/", _text(_dict(manifest.get("config")), "digest"))
    if not architectures and config.get("architecture"):
        architectures = (str(config["architecture"]),)
    labels = _dict(_dict(config.get("config")).get("Labels"))
    return ImageFacts(
        digest=digest,
        size=_size(manifest),
        architectures=architectures,
        classic=labels.get(DOWNLOAD_LABEL) != "native-v1" if config else None,
    )


def _size(manifest: Mapping[str, Any]) -> Optional[int]:
    layers = _list(manifest, "layers")
    sizes = [size for layer in layers if isinstance(size := layer.get("size"), int)]
    return sum(sizes) if layers and len(sizes) == len(layers) else None


def _answer(ask: Ask, path: str, digest: str) -> Json:
    if not digest:
        return {}
    try:
        reply = ask(path + digest)
    except Trouble:
        return {}
    return _dict(reply.data) if reply.status == 200 else {}


def _list(value: Mapping[str, Any], name: str) -> list[Json]:
    found = value.get(name)
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def _dict(value: object) -> Json:
    return value if isinstance(value, dict) else {}


def _text(value: Mapping[str, Any], name: str) -> str:
    return str(value.get(name) or "")
