# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""What KServe's own ConfigMap says, and the words it uses for the deployment mode.

Until 0.15 KServe says ``RawDeployment`` and ``Serverless``, from 0.16 on ``Standard`` and ``Knative``; 0.17 and later
read both.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

NAME = "inferenceservice-config"
STANDARD = frozenset({"Standard", "RawDeployment"})  # two words for the mode that this collection deploys


@dataclass(frozen=True)
class KServeConfig:
    """``default_mode``: the ConfigMap's own word; ``not_propagated``: labels and annotations that don't reach pods;
    ``ingress_class``: of the Ingresses, empty for the cluster's default.
    """

    default_mode: str = ""
    not_propagated: frozenset[str] = frozenset()
    ingress_class: str = ""

    @property
    def old_words(self) -> bool:
        """Whether the ConfigMap is written in the words of 0.15; some later releases still ship it like that."""
        return self.default_mode in ("RawDeployment", "Serverless")


def parse(config_map: Mapping[str, Any]) -> KServeConfig:
    """Read the parts that matter; what can't be read counts as not said."""
    deploy, service = _part(config_map, "deploy"), _part(config_map, "inferenceService")
    ingress = _part(config_map, "ingress")
    keys = [*(service.get("serviceAnnotationDisallowedList") or ()), *(service.get("serviceLabelDisallowedList") or ())]
    return KServeConfig(
        str(deploy.get("defaultDeploymentMode") or ""),
        frozenset(map(str, keys)),
        str(ingress.get("ingressClassName") or ""),
    )


def _part(config_map: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    try:
        found = json.loads((config_map.get("data") or {}).get(key) or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def word_for(config: KServeConfig, controller_image: str = "") -> str:
    """Return the word for the standard mode. The controller's version decides where its image tells it."""
    match = re.search(r":v?(\d+)\.(\d+)", controller_image.partition("@")[0])
    if match:
        return "Standard" if (int(match[1]), int(match[2])) >= (0, 16) else "RawDeployment"
    return "RawDeployment" if config.old_words else "Standard"


def live_mode(isvc: Mapping[str, Any], annotation: str) -> str:
    """Return the mode that a live InferenceService runs in; empty before KServe has seen it and said so."""
    said = (isvc.get("status") or {}).get("deploymentMode") or (isvc["metadata"].get("annotations") or {}).get(
        annotation
    )
    return str(said or "")
