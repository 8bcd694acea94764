# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""Whose an object is, and how it becomes ours: read from its labels and from what the server keeps in managedFields."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from typing import Any, Optional

from .client import FIELD_MANAGER

Fields = dict[str, Any]  # FieldsV1: a tree whose keys are f:NAME, k:{the key of a list item}, v:VALUE and "."

MANAGED_BY = {"app.kubernetes.io/managed-by": "gpuops.nim"}
ADOPTING = f"{FIELD_MANAGER}-adopts"  # the manager of what was written, but is not quite ours yet

_NEVER_TAKEN = ("f:finalizers", "f:ownerReferences")  # what controllers need to clean up after themselves

# Fields that the server fills in for whoever creates the object, and fills in again when they go.
_DEFAULTED: Mapping[str, Fields] = {
    "Service": {"f:spec": {"f:type": {}, "f:sessionAffinity": {}, "f:internalTrafficPolicy": {}}},
}


def managers(obj: Mapping[str, Any], but: str = "") -> list[str]:
    """Who has written the object itself (not its status), in the server's order."""
    found = dict.fromkeys(str(entry.get("manager")) for entry in _entries(obj))
    return [manager for manager in found if manager != but]


def is_ours(live: Mapping[str, Any]) -> bool:
    labels = live["metadata"].get("labels") or {}
    return MANAGED_BY.items() <= labels.items() or FIELD_MANAGER in managers(live)


def owner(live: Mapping[str, Any]) -> str:
    """For people: all that the object says of who made it."""
    meta = live["metadata"]
    labels, notes = meta.get("labels") or {}, meta.get("annotations") or {}
    signs = []
    if labels.get("servingType") or "arena.kubeflow.org/username" in notes:
        user = notes.get("arena.kubeflow.org/username")
        signs.append(f"made by arena{f' for user {user}' if user else ''}")
    elif release := helm_release(live) or (labels.get("heritage") and labels.get("release")):
        signs.append(f"made by Helm release {release}")
    elif manager := labels.get("app.kubernetes.io/managed-by"):
        signs.append(f"labelled as managed by {manager}")
    for reference in meta.get("ownerReferences") or ():
        signs.append(f"owned by {reference['kind']} {reference['name']}")
    if others := managers(live):
        signs.append(f"last written by {', '.join(others)}")
    return "; ".join(signs) or "nothing on it says whose it is"


def helm_release(live: Mapping[str, Any]) -> Optional[str]:
    """The release of Helm that the object came with."""
    release: Optional[str] = (live["metadata"].get("annotations") or {}).get("meta.helm.sh/release-name")
    return release


def owned(live: Mapping[str, Any]) -> dict[str, Any]:
    """The object with nothing but the fields that we have applied: applied again, it changes nothing."""
    mine: Fields = {}
    for entry in _entries(live):
        if entry.get("manager") == FIELD_MANAGER and entry.get("operation") == "Apply":
            mine = _union(mine, entry.get("fieldsV1") or {})
    picked: dict[str, Any] = _pick(live, mine) if mine else {}
    return picked


def theirs(live: Mapping[str, Any]) -> dict[str, Fields]:
    """The fields that others hold and that can be taken over, by manager."""
    found: dict[str, Fields] = {}
    for entry in _entries(live):
        fields, _rest = _split(entry.get("fieldsV1") or {})
        if fields and entry["manager"] != FIELD_MANAGER:
            found[entry["manager"]] = _union(found.get(entry["manager"], {}), fields)
    return found


def taken_over(after: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The managedFields of ``after`` (our apply on top of what others made) when its fields are ours alone.

    The next apply then drops what it leaves out; controllers keep what they hold.
    """
    kept = []
    for entry in after["metadata"].get("managedFields") or ():
        mine = entry.get("manager") == FIELD_MANAGER and entry.get("operation") == "Apply"
        if entry.get("subresource") or mine:
            kept.append(entry)
            continue
        fields = _split(entry.get("fieldsV1") or {})[1]
        if fields:
            kept.append({**entry, "fieldsV1": fields})
    return kept


def without_leftovers(after: Mapping[str, Any], live: Mapping[str, Any]) -> dict[str, Any]:
    """``after`` (our apply on top of ``live``) without what others alone had set: what a take-over leads to."""
    mine = _DEFAULTED.get(after["kind"], {})
    for entry in _entries(after):
        if entry["manager"] == FIELD_MANAGER:
            mine = _union(mine, entry.get("fieldsV1") or {})
    clean = copy.deepcopy(dict(after))
    for fields in theirs(live).values():
        _prune(clean, _difference(fields, mine))
    return clean


def paths(fields: Fields, at: str = "") -> Iterator[str]:
    """The leaves in words: ``spec.predictor.minReplicas``, ``spec.ports[port=80,protocol=TCP].name``."""
    inner = {key: value for key, value in fields.items() if key != "."}
    if not inner and at:
        yield at
    for key, value in inner.items():
        kind, _colon, name = key.partition(":")
        if kind == "f":
            yield from paths(value, f"{at}.{name}" if at else name)
        elif kind == "k":
            item = ",".join(f"{field}={text}" for field, text in json.loads(name).items())
            yield from paths(value, f"{at}[{item}]")
        else:
            yield f"{at}[{name}]"


def _entries(obj: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [entry for entry in obj["metadata"].get("managedFields") or () if not entry.get("subresource")]


def _split(fields: Fields) -> tuple[Fields, Fields]:
    """What can be taken over, and what stays whose it is."""
    meta = fields.get("f:metadata") or {}
    kept = {key: meta[key] for key in _NEVER_TAKEN if key in meta}
    others = {key: value for key, value in meta.items() if key not in kept}
    rest = {key: value for key, value in fields.items() if key != "f:metadata"}
    return {**({"f:metadata": others} if others else {}), **rest}, ({"f:metadata": kept} if kept else {})


def _union(one: Fields, other: Fields) -> Fields:
    both = dict(one)
    for key, value in other.items():
        both[key] = _union(both[key], value) if key in both else value
    return both


def _difference(fields: Fields, but: Fields) -> Fields:
    """The leaves of ``fields`` that ``but`` has not. Where ``but`` holds a whole subtree, nothing below it is left."""
    left: Fields = {}
    for key, value in fields.items():
        if key not in but:
            left[key] = value
        elif value and but[key] and (inner := _difference(value, but[key])):
            left[key] = inner
    return left


def _pick(node: Any, fields: Fields) -> Any:
    """A copy of the part of the object that the fields say."""
    inner = {key: value for key, value in fields.items() if key != "."}
    if not inner or not isinstance(node, (dict, list)):
        return copy.deepcopy(node)
    if isinstance(node, dict):
        named = {key.partition(":")[2]: value for key, value in inner.items()}
        return {name: _pick(node[name], value) for name, value in named.items() if name in node}
    picked = []
    for item in node:
        for key, value in inner.items():
            kind, _colon, text = key.partition(":")
            wanted = json.loads(text)
            if kind == "v" and item == wanted:
                picked.append(item)
            elif kind == "k" and isinstance(item, dict) and wanted.items() <= item.items():
                picked.append(_pick(item, value))
    return picked


def _prune(node: Any, fields: Fields) -> None:
    """Take the leaves out of the object, and what is empty after it."""
    for key, inner in fields.items():
        kind, _colon, name = key.partition(":")
        if kind == "f" and isinstance(node, dict) and name in node:
            if inner and isinstance(node[name], (dict, list)):
                _prune(node[name], inner)
            if not inner or node[name] in ({}, []):
                del node[name]
        elif kind == "k" and isinstance(node, list):
            wanted = json.loads(name)
            for item in [item for item in node if isinstance(item, dict) and wanted.items() <= item.items()]:
                _prune(item, inner)
                if "." in inner:
                    node.remove(item)
