# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""What of an InferenceService is its release: the image and the model profile. All else stays in an upgrade."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from . import contract
from .names import CONTAINER

PROFILE = "NIM_MODEL_PROFILE"
_TAG = re.compile(r"\w[\w.-]{0,127}")
_PROFILE_ID = re.compile(r"[0-9a-f]{64}")

Object = dict[str, Any]


class BadRelease(Exception):
    """(option, text): what can't be upgraded to, and what could."""

    def __init__(self, option: str, text: str) -> None:
        super().__init__(f"{option}: {text}")
        self.option, self.text = option, text


@dataclass(frozen=True)
class Release:
    """``profile`` is empty where NIM chooses by itself."""

    image: str
    profile: str = ""

    def __str__(self) -> str:
        return f"{self.image}, profile {self.profile}" if self.profile else self.image


@dataclass(frozen=True)
class Wanted:
    """What an upgrade asks for; ``None`` stays as it is. An empty ``profile`` leaves the choice to NIM."""

    image: str | None = None
    tag: str | None = None
    profile: str | None = None


def of(isvc: Mapping[str, Any]) -> Release:
    """Return the release of an InferenceService; the image is empty where a serving runtime brings it."""
    container = _main(isvc) or {}
    values = {item.get("name"): item.get("value") for item in container.get("env") or ()}
    return Release(str(container.get("image") or ""), str(values.get(PROFILE) or ""))


def wrong_tag(tag: str) -> str:
    """Say what is wrong with a tag; nothing if it is one."""
    return "" if _TAG.fullmatch(tag) else f"{tag!r} is not a tag; for example 1.0.3"


def next_of(now: Release, wanted: Wanted) -> Release:
    """Return the release to go to.

    :raises BadRelease: it can't be told, or the profile that stays belongs to another line.
    """
    if not now.image:
        raise BadRelease("name", "its image comes from a serving runtime; change runtime_version with nim_kserve")
    image = wanted.image or now.image
    if wanted.tag:
        try:
            parsed = contract.parse_image(now.image)
        except ValueError as error:
            raise BadRelease("tag", f"the image in use can't be read ({error}); give image as a whole") from None
        repository = f"{parsed.registry}/{parsed.repository}" if parsed.registry else parsed.repository
        image = f"{repository}:{wanted.tag}"
    profile = now.profile if wanted.profile is None else wanted.profile
    old, new = contract.contract_for(now.image), contract.contract_for(image)
    other = _major(old) != _major(new) or contract.model_of(now.image) != contract.model_of(image)
    if wanted.profile is None and _PROFILE_ID.fullmatch(profile) and other:
        raise BadRelease(
            "model_profile",
            f"the service is bound to the profile {profile} of {now.image}, and ids of another line or model are "
            "others. Give one of the new image (list-model-profiles in it shows them), or '' to let NIM choose",
        )
    return Release(image, profile)


def _major(line: contract.Contract) -> str:
    return line.line.partition(".")[0]


def notes(now: Release, then: Release, served: str = "") -> list[str]:
    """Say what the users of the model will notice.

    :param served: NIM_SERVED_MODEL_NAME, which stays.
    """
    old, new = contract.model_of(now.image), contract.model_of(then.image)
    if served or old == new:
        return []
    return [f"the model's id changes from {old} to {new}: requests that name the old one get 404"]


def served_name(isvc: Mapping[str, Any]) -> str:
    """Return the name that the service gives its model, if it does."""
    env = (_main(isvc) or {}).get("env") or ()
    return next((str(item.get("value") or "") for item in env if item.get("name") == "NIM_SERVED_MODEL_NAME"), "")


def changed(isvc: Mapping[str, Any], to: Release) -> Object:
    """Return a copy of the InferenceService with another release: its container, those of the same image, a variable.

    :raises BadRelease: it has no container that could be NIM's.
    """
    made = copy.deepcopy(dict(isvc))
    container = _main(made)
    if container is None:
        raise BadRelease("name", f"has no container {CONTAINER}, so nothing tells which image is NIM's")
    old = container.get("image")
    predictor = made["spec"]["predictor"]
    for other in [*(predictor.get("containers") or ()), *(predictor.get("initContainers") or ())]:
        if old and other.get("image") == old:
            other["image"] = to.image
    container["image"] = to.image
    env = [item for item in container.get("env") or () if item.get("name") != PROFILE]
    if to.profile:
        # where nim_kserve puts it: after those from Secrets, by name
        place = next((i for i, item in enumerate(env) if "value" in item and item["name"] > PROFILE), len(env))
        env.insert(place, {"name": PROFILE, "value": to.profile})
    if env:
        container["env"] = env
    else:
        container.pop("env", None)
    return made


def _main(isvc: Mapping[str, Any]) -> Object | None:
    predictor = (isvc.get("spec") or {}).get("predictor") or {}
    model: Object | None = predictor.get("model")
    if model is not None:
        return model
    containers: list[Object] = predictor.get("containers") or []
    return next((each for each in containers if each.get("name") == CONTAINER), containers[0] if containers else None)
