# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""Which services of a cluster run a NIM, whoever made them: by image, by variables, or by the runtime's format."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from .names import CONTAINER

Object = Mapping[str, Any]

_IMAGE = re.compile(r"(^|/)nim/|/nim-")  # nvcr.io/nim/meta/…, and mirrors that keep a part of the path
_FORMAT = "nvidia-nim-"  # of the serving runtimes in NVIDIA/nim-deploy
_VARIABLE = re.compile(r"NGC_API_KEY|NIM_[A-Z0-9_]+")


def runs_nim(service: Object, workload: Object | None) -> bool:
    """Whether an InferenceService runs a NIM. ``workload``: its Deployment, which knows what the runtime added."""
    predictor = service.get("spec", {}).get("predictor", {})
    if str(((predictor.get("model") or {}).get("modelFormat") or {}).get("name", "")).startswith(_FORMAT):
        return True
    return any(
        _IMAGE.search(str(container.get("image", "")))
        or any(_VARIABLE.fullmatch(str(variable.get("name"))) for variable in container.get("env") or ())
        for container in _containers(service, workload)
    )


def image_of(service: Object, workload: Object | None) -> str:
    """The image that the service asks for; empty where only a serving runtime knows it."""
    found = list(_containers(service, workload))
    main = next((container for container in found if container.get("name") == CONTAINER), found[0] if found else {})
    return str(main.get("image") or "")


def _containers(service: Object, workload: Object | None) -> Iterator[Object]:
    template = (workload or {}).get("spec", {}).get("template", {}).get("spec", {})
    yield from template.get("containers") or ()
    predictor = service.get("spec", {}).get("predictor", {})
    yield from predictor.get("containers") or ()
    if predictor.get("model"):
        yield predictor["model"]
