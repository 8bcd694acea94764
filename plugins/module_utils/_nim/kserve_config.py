# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""What KServe's own ConfigMap says, and the words it uses for the deployment mode.

Until 0.15 KServe says ``RawDeployment`` and ``Serverless``, from 0.16 on ``Standard`` and ``Knative``; 0.17 and later
read both. All of them ship a ConfigMap that says ``Serverless``.
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
    ``ingress_class``: of the Ingresses, empty for the cluster's default; ``autoscaler``: whether it has this part,
    which came with 0.16; ``gateway``: it uses the Gateway API in place of Ingresses; ``makes_ingresses``: false where
    it makes no way in at all.
    """

    default_mode: str = ""
    not_propagated: frozenset[str] = frozenset()
    ingress_class: str = ""
    autoscaler: bool = False
    gateway: bool = False
    makes_ingresses: bool = True

    @property
    def old_words(self) -> bool:
        """Whether the ConfigMap may be one of 0.15: one of a later release can come from an installation before it."""
        return self.default_mode in ("RawDeployment", "Serverless") and not self.autoscaler


def parse(config_map: Mapping[str, Any]) -> KServeConfig:
    """Read the parts that matter; what can't be read counts as not said."""
    deploy, service = _part(config_map, "deploy"), _part(config_map, "inferenceService")
    ingress = _part(config_map, "ingress")
    keys = [*(service.get("serviceAnnotationDisallowedList") or ()), *(service.get("serviceLabelDisallowedList") or ())]
    return KServeConfig(
        str(deploy.get("defaultDeploymentMode") or ""),
        frozenset(map(str, keys)),
        str(ingress.get("ingressClassName") or ""),
        "autoscaler" in (config_map.get("data") or {}),
        ingress.get("enableGatewayApi") is True,
        ingress.get("disableIngressCreation") is not True,
    )


def _part(config_map: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    try:
        found = json.loads((config_map.get("data") or {}).get(key) or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def version_of(controller_image: str) -> tuple[int, int] | None:
    """The release of KServe as its controller's image tag says it: (0, 16); None where it doesn't."""
    match = re.search(r":v?(\d+)\.(\d+)", controller_image.partition("@")[0])
    return (int(match[1]), int(match[2])) if match else None


def word_for(config: KServeConfig, controller_image: str = "") -> str:
    """Return the word for the standard mode. The controller's version decides where its image tells it."""
    version = version_of(controller_image)
    if version:
        return "Standard" if version >= (0, 16) else "RawDeployment"
    return "RawDeployment" if config.old_words else "Standard"


def live_mode(isvc: Mapping[str, Any], annotation: str) -> str:
    """Return the mode that a live InferenceService runs in; empty before KServe has seen it and said so."""
    return status_mode(isvc) or str((isvc["metadata"].get("annotations") or {}).get(annotation) or "")


def status_mode(isvc: Mapping[str, Any]) -> str:
    return str((isvc.get("status") or {}).get("deploymentMode") or "")


def right_word(isvc: Mapping[str, Any], annotation: str) -> str:
    """Return the word that the annotation must have before KServe 0.16 takes anything else; empty where it is fine.

    0.16 takes ``RawDeployment`` once, calls it ``Standard`` in the status, and from then on refuses every update of
    that object, its own that end a deletion too.
    """
    said, runs = (isvc["metadata"].get("annotations") or {}).get(annotation), status_mode(isvc)
    return runs if said != runs and {said, runs} <= STANDARD else ""


def remedy(denial: str, word: str, isvc: Mapping[str, Any] | None) -> str:
    """Return what helps when KServe's webhook refuses our word for the mode; nothing when it refuses something else.

    :param isvc: the live InferenceService.
    """
    if "only supported for raw deployment mode" not in denial and "deploymentMode cannot be changed" not in denial:
        return ""
    if isvc is None or status_mode(isvc) != "RawDeployment":
        (other,) = STANDARD - {word}
        return f"This KServe has another word for the mode {word}: set deployment_mode: {other}."
    # neither 0.16 nor 0.17 reads what 0.15 wrote into the status
    where = f"-n {isvc['metadata']['namespace']} {isvc['metadata']['name']}"
    return (
        "The service is from before KServe 0.16, and this KServe does not know its mode any more. Tell it once: "
        f"`kubectl patch inferenceservice {where} --subresource=status --type=merge "
        """-p '{"status":{"deploymentMode":"Standard"}}'`, then run this again."""
    )
