# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""What a NIM container promises, by release line. The line is read from the image's tag."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

CONTAINER_PORT = 8000
READY_PATH = "/v1/health/ready"
LIVE_PATH = "/v1/health/live"


@dataclass(frozen=True)
class Contract:
    """``known`` is false where the tag told nothing and the newest line was taken."""

    line: str
    metrics_path: str
    port_opens_before_loaded: bool
    live_path: str = LIVE_PATH
    ready_path: str = READY_PATH
    grace_period: int = 60  # seconds, as in NVIDIA's nim-llm chart
    startup_timeout: int = 1800  # seconds: 180 probes of 10 s in NVIDIA's nim-llm chart
    repository_override: bool = True  # knows NIM_REPOSITORY_OVERRIDE
    known: bool = True


# Newest first; a tag belongs to the first line whose floor it reaches.
# 1.0 and 1.1 serve /metrics (NVIDIA/nim-deploy, kserve), later lines /v1/metrics.
# From 1.2 on the port may open before the model is there.
_LINES: tuple[tuple[tuple[int, int], Contract], ...] = (
    (
        (24, 0),
        Contract("24.05", "/metrics", False, repository_override=False),
    ),  # the pre-releases were numbered by month
    ((3, 0), Contract("3.x", "/v1/metrics", True)),
    ((2, 0), Contract("2.x", "/v1/metrics", True)),
    ((1, 2), Contract("1.x", "/v1/metrics", True)),
    ((0, 0), Contract("1.0", "/metrics", False, repository_override=False)),
)
NEWEST = _LINES[1][1]

_TAG = re.compile(r"v?(\d+)(?:\.(\d+))?(?:[.\-+_].*)?")
_HOST = r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?(?::\d{1,5})?"
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_IMAGE = re.compile(
    rf"(?:(?P<host>{_HOST})/)?(?P<path>{_PART}(?:/{_PART})*)(?::(?P<tag>\w[\w.-]{{0,127}}))?(?:@(?P<digest>sha256:[0-9a-f]{{64}}))?"
)


@dataclass(frozen=True)
class Image:
    """``registry/repository:tag@digest``; what was not written is empty."""

    registry: str
    repository: str
    tag: str
    digest: str


def parse_image(image: str) -> Image:
    """Take an image reference apart.

    :raises ValueError: with what is wrong and what would be right.
    """
    example = "for example nvcr.io/nim/meta/llama3-8b-instruct:1.0.0"
    if re.match(r"[a-z]+://", image):
        raise ValueError(f"an image has no {image.split('://')[0]}:// in front; {example}")
    match = _IMAGE.fullmatch(image)
    if not match:
        path = re.sub(r"(:[^/]*)?(@.*)?$", "", image.partition("/")[2])
        if re.search(r"\s", image):
            raise ValueError(f"an image has no white space; {example}")
        if path != path.lower():
            raise ValueError(f"the repository of an image is in lower case; {example}")
        raise ValueError(f"{image!r} is not an image reference; {example}")
    host, path = match["host"] or "", match["path"]
    if host and not re.search(
        r"[.:]|^localhost$", host
    ):  # docker's rule: without one of these the first part belongs to the repository
        host, path = "", f"{host}/{path}"
    return Image(host, path, match["tag"] or "", match["digest"] or "")


def contract_for(image: str) -> Contract:
    """Return the contract of ``image``: the newest, not ``known``, for a tag without a version and a digest alone."""
    try:
        tag = parse_image(image).tag
    except ValueError:
        tag = ""
    match = _TAG.fullmatch(tag)
    if not match:
        return replace(NEWEST, known=False)
    version = (
        int(match[1]),
        int(match[2]) if match[2] else (99 if int(match[1]) < 24 else 0),
    )  # the tag "1" is the newest 1.x
    return next(contract for floor, contract in _LINES if version >= floor)


def model_of(image: str) -> str:
    """Return the id that ``/v1/models`` most likely lists: ``nim/meta/llama3-8b`` → ``meta/llama3-8b``."""
    try:
        path = parse_image(image).repository
    except ValueError:
        return ""
    return path.partition("nim/")[2] if path.startswith("nim/") else "/".join(path.split("/")[-2:])


def api_of(image: str) -> str:
    """Return what the model is asked: ``chat``, ``embeddings`` or ``ranking``, judged by its name."""
    name = model_of(image).rpartition("/")[2]
    if re.search(r"rerank", name):
        return "ranking"
    if re.search(r"embed|arctic|bge|e5-", name):
        return "embeddings"
    return "chat"
