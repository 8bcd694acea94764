# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""Verdicts about the keys that services pull their images with. A key is read here and goes no further."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from ansible_collections.gpuops.nim.plugins.module_utils._kube.errors import Forbidden, KubeError
from ansible_collections.gpuops.nim.plugins.module_utils._ngc.key import BadKey
from ansible_collections.gpuops.nim.plugins.module_utils._nim.contract import parse_image
from ansible_collections.gpuops.nim.plugins.module_utils._nim.findings import redact
from ansible_collections.gpuops.nim.plugins.module_utils._ops.key_info import REGISTRY_ARGUMENTS, ask
from ansible_collections.gpuops.nim.plugins.module_utils._ops.new_key import Login, is_ngc, logins_of
from ansible_collections.gpuops.nim.plugins.module_utils._ops.reader import Reader
from ansible_collections.gpuops.nim.plugins.module_utils._ops.result import OpsError

# how registries are reached; the logins are those of the services
WAY_ARGUMENTS = {name: spec for name, spec in REGISTRY_ARGUMENTS.items() if name.startswith("registry_")}

Key = tuple[str, str]  # namespace and name of a service
Logins = dict[str, Login]


def verdicts(
    reader: Reader, asked: Mapping[Key, tuple[Mapping[str, Any], str]], way: Mapping[str, Any]
) -> dict[Key, dict[str, Any]]:
    """What each service's registry says of its key, for its image; nothing where the key may not be read.

    :param asked: the ``spec`` of its pods and its image.
    :raises OpsError: an option that can't be right.
    """
    groups: dict[tuple[str, ...], list[Key]] = defaultdict(list)
    for key, (pod, image) in asked.items():
        names = [str(secret.get("name")) for secret in pod.get("imagePullSecrets") or ()]
        if _is_image(image):
            groups[(key[0], *names)].append(key)
    found: dict[Key, dict[str, Any]] = {}
    for (namespace, *names), keys in groups.items():
        logins = _logins(reader, namespace, names)
        if logins is None:
            continue
        images = [asked[key][1] for key in keys]
        found.update(zip(keys, _ask(images, logins, way)))
    return found


def _logins(reader: Reader, namespace: str, names: list[str]) -> Logins | None:
    """The logins in these Secrets, the first one of a host counting; ``None`` where one of them can't be read."""
    logins: Logins = {}
    for name in names:
        try:
            secret = reader.client.get("v1", "Secret", name, namespace)
            logins = {**logins_of(secret or {}), **logins}
        except Forbidden:
            reader.denied[f"secret {namespace}/{name}: no right to get it, so there is no verdict of its key"] = None
            return None
        except (OpsError, KubeError) as error:
            reader.denied[f"secret {namespace}/{name}: {error}"] = None
            return None
    return logins


def _is_image(image: str) -> bool:
    """A name that is no image's is the kubelet's to complain about."""
    try:
        parse_image(image)
    except ValueError:
        return False
    return True


def _ask(images: list[str], logins: Logins, way: Mapping[str, Any]) -> list[dict[str, Any]]:
    places = {re.sub(r"^https?://", "", host).rstrip("/"): login for host, login in logins.items()}
    ngc = next((login.password for host, login in places.items() if is_ngc(host)), None)
    others = [
        {"host": host, "username": login.user, "password": login.password}
        for host, login in places.items()
        if not is_ngc(host) and any(f"{image}/".startswith(f"{host}/") for image in images)
    ]
    try:
        told = ask(images, {**way, "ngc_api_key": ngc, "registries": others})
    except BadKey as error:
        remedy = "write a real key: ansible-playbook gpuops.nim.rotate_key"
        return [{"verdict": "invalid", "cause": error.message, "remedy": remedy, "evidence": []} for _image in images]
    return [
        {
            "verdict": verdict.verdict,
            "cause": redact(verdict.cause),
            "remedy": verdict.remedy,
            "evidence": [asdict(evidence) for evidence in verdict.evidence],
        }
        for verdict in told
    ]
