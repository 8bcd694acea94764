# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""``pod_patch``: the rules of a strategic merge patch, for the parts of a pod.

Custom resources know no strategic merge on the server, so it is done here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Lists that are merged item by item, and the field that tells the items apart. Every other list is replaced.
MERGE_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "env": "name",
    "volumes": "name",
    "imagePullSecrets": "name",
    "ports": "containerPort",
    "volumeMounts": "mountPath",
    "volumeDevices": "devicePath",
    "hostAliases": "ip",
}

# Of these an object has but one, so another one takes its place: the handlers of probes and of `lifecycle`.
UNION = frozenset({"exec", "grpc", "httpGet", "sleep", "tcpSocket"})


class PatchError(ValueError):
    """The patch can't be applied; the text starts with the path inside the patch."""


def merge(base: Mapping[str, Any], patch: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Return ``base`` with ``patch`` laid over it; neither is changed.

    ``null`` removes a field, ``$patch: delete`` an item of a list, ``$patch: replace`` replaces instead of merging.

    :raises PatchError: an item without the field that tells it apart, or an unknown ``$patch``.
    """
    directive = patch.get("$patch")
    if directive not in (None, "replace", "merge"):
        raise PatchError(
            f"{path or '$patch'}: '$patch: {directive}' is not known here; 'replace' or, for items of lists, 'delete'"
        )
    merged: dict[str, Any] = {} if directive == "replace" else dict(base)
    if chosen := {key for key in UNION & patch.keys() if patch[key] is not None}:
        merged = {key: value for key, value in merged.items() if key not in UNION or key in chosen}
    for key, value in patch.items():
        where = f"{path}.{key}" if path else str(key)
        if key == "$patch":
            continue
        if str(key).startswith("$"):
            raise PatchError(f"{where}: this directive is not supported; '$patch' is")
        live = merged.get(key)
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, list) and key in MERGE_KEYS:
            merged[key] = _merge_list(live if isinstance(live, list) else [], value, str(key), where)
            if not merged[key]:
                del merged[key]
        elif isinstance(value, Mapping):
            merged[key] = merge(live if isinstance(live, Mapping) else {}, value, where)
        else:
            merged[key] = value
    return merged


def _merge_list(base: list[Any], patch: list[Any], kind: str, path: str) -> list[Any]:
    key = MERGE_KEYS[kind]
    merged = list(base)
    for number, item in enumerate(patch):
        where = f"{path}[{number}]"
        if not isinstance(item, Mapping):
            raise PatchError(f"{where}: must be a dictionary, is {type(item).__name__}")
        if list(item) == ["$patch"] and item["$patch"] == "replace":
            merged = []
            continue
        if key not in item:
            hint = "; NIM's container is called kserve-container" if kind == "containers" else ""
            raise PatchError(f"{where}: needs '{key}', which tells the items apart{hint}")
        at = next((i for i, live in enumerate(merged) if live.get(key) == item[key]), None)
        if item.get("$patch") == "delete":
            if at is not None:
                del merged[at]
        elif at is None:
            merged.append(merge({}, item, where))
        elif kind == "volumes" and set(item) - set(merged[at]):
            merged[at] = merge({}, item, where)  # a volume has one source: a new one replaces the old one
        else:
            merged[at] = merge(merged[at], item, where)
    return merged
