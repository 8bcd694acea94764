# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""Server-side apply done right: what changed is what the server's answer shows, and nobody else's object is touched."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .client import FIELD_MANAGER, Client
from .errors import Conflict, Deleting, Foreign, Invalid, KindMissing, NotFound
from .ownership import ADOPTING, MANAGED_BY, is_ours, managers, owner, paths, taken_over, theirs, without_leftovers
from .redact import LAST_APPLIED, redact

# "Foreground" would only have them linger
_CHILDLESS = ("ConfigMap", "HorizontalPodAutoscaler", "PersistentVolumeClaim", "PodMonitor", "Secret", "ServiceMonitor")
_ROUNDS = 5
_NOISE = ("managedFields", "resourceVersion", "uid", "generation", "creationTimestamp", "selfLink")


@dataclass(frozen=True)
class Change:
    """What was, or in check mode would be, done to one object.

    ``action`` is created, changed, unchanged, deleted or absent. ``before`` and ``after`` are the server's own objects,
    secret values included (None when there was none), so never print them: ``diff`` is for people.
    """

    kind: str
    name: str
    namespace: str | None
    action: str
    before: dict[str, Any] | None = field(repr=False)
    after: dict[str, Any] | None = field(repr=False)
    warnings: tuple[str, ...] = ()
    taken: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """The fields that were, or would be, taken over, by who held them."""

    @property
    def changed(self) -> bool:
        return self.action in ("created", "changed", "deleted")

    @property
    def diff(self) -> dict[str, Any]:
        """For Ansible: before, after and their headers; no secret values, none of the server's bookkeeping."""
        header = f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}"
        before, after = _plain(self.before), _plain(self.after)
        held = {"fields held by others": {name: list(fields) for name, fields in self.taken.items()}}
        return {
            "before": {**redact(before), **(held if self.taken else {})},
            "after": redact(after, before) if before else redact(after),
            "before_header": header,
            "after_header": header,
        }


def ensure(
    client: Client,
    obj: dict[str, Any],
    *,
    check_mode: bool = False,
    adopt: bool = False,
    live: dict[str, Any] | None = None,
) -> Change:
    """Makes the object be as ``obj`` says; fields that ``obj`` leaves out stay as they are.

    ``live``: the object as it was just read, which saves reading it; the server refuses if it is another one by now.
    Sends nothing that writes when nothing would change. Raises Foreign when somebody else made the object and Conflict
    when others hold fields that differ, both unless ``adopt``; Deleting when it is on its way out; else KubeError.
    """
    wanted = copy.deepcopy(obj)
    wanted["metadata"]["labels"] = {**(wanted["metadata"].get("labels") or {}), **MANAGED_BY}
    tried: list[dict[str, Any]] = []  # what we saw before a write that may or may not have been done
    for attempt in range(_ROUNDS):
        if live is None or attempt:
            live = client.get(obj["apiVersion"], obj["kind"], obj["metadata"]["name"], obj["metadata"].get("namespace"))
        if live is None:
            return _create(client, wanted, check_mode)
        try:
            return _converge(client, wanted, live, check_mode, adopt, tried, pinned=attempt < _ROUNDS - 1)
        except Conflict as error:
            if error.managers or attempt == _ROUNDS - 1:
                raise
        except Invalid as error:
            if attempt == _ROUNDS - 1 or "metadata.uid" not in dict(error.causes):
                raise
    raise AssertionError


def ensure_annotation(
    client: Client, live: dict[str, Any], key: str, value: str | None, *, check_mode: bool = False, adopt: bool = False
) -> Change:
    """Sets one annotation of an object that was read before, leaving all else; ``None`` takes it away.

    Raises Foreign when the object isn't ours, unless ``adopt``.
    """
    _refuse_foreign(live, adopt)
    kind, name, namespace = _names(live)
    if (live["metadata"].get("annotations") or {}).get(key) == value:
        return Change(kind, name, namespace, "unchanged", live, live)
    after = client.patch(live, {"metadata": {"annotations": {key: value}}}, dry_run=check_mode)
    return Change(kind, name, namespace, "changed", live, after)


def ensure_absent(
    client: Client,
    api_version: str,
    kind: str,
    name: str,
    namespace: str | None = None,
    *,
    check_mode: bool = False,
    adopt: bool = False,
) -> Change:
    """Deletes the object, dependents first, and doesn't wait. Raises Foreign when it isn't ours, unless ``adopt``."""
    for attempt in range(_ROUNDS):
        try:
            live = client.get(api_version, kind, name, namespace)
        except KindMissing:
            live = None
        if live is None:
            return Change(kind, name, namespace, "absent", None, None)
        if "deletionTimestamp" in live["metadata"]:
            said = (f"{_title(live)} is already being deleted{_held(live)}.",)
            return Change(kind, name, namespace, "absent", live, None, said)
        _refuse_foreign(live, adopt)
        try:
            client.delete(
                api_version,
                kind,
                name,
                namespace,
                dry_run=check_mode,
                propagation="Background" if kind in _CHILDLESS else "Foreground",
                uid=live["metadata"]["uid"],
            )
            return Change(kind, name, namespace, "deleted", live, None)
        except Conflict:  # another object by that name by now
            if attempt == _ROUNDS - 1:
                raise
    raise AssertionError


def _create(client: Client, wanted: dict[str, Any], check_mode: bool) -> Change:
    kind, name, namespace = _names(wanted)
    said: list[str] = []
    try:
        after = client.apply(wanted, dry_run=check_mode, warnings=said)
    except NotFound as error:
        if not check_mode or error.resource != "namespaces":
            raise
        said.append(f"Namespace {namespace} doesn't exist yet: {kind} {name} is shown as its manifest, unchecked.")
        return Change(kind, name, namespace, "created", None, wanted, tuple(said))
    if others := managers(after, but=FIELD_MANAGER):
        said.append(f"{_title(after)} was made by {', '.join(others)} at the same moment; our fields were added to it.")
        return Change(kind, name, namespace, "changed", None, after, tuple(said))
    return Change(kind, name, namespace, "created", None, after, tuple(said))


def _converge(
    client: Client,
    wanted: dict[str, Any],
    live: dict[str, Any],
    check_mode: bool,
    adopt: bool,
    tried: list[dict[str, Any]],
    *,
    pinned: bool,
) -> Change:
    """One round against the object as it was read: the server refuses when it is another one by then."""
    if "deletionTimestamp" in live["metadata"]:
        raise Deleting(
            f"{_title(live)} is being deleted{_held(live)}. Run again when it is gone, or remove what holds it."
        )
    _refuse_foreign(live, adopt)
    if not is_ours(live) or ADOPTING in managers(live):
        return _take_over(client, wanted, live, check_mode, tried)
    kind, name, namespace = _names(wanted)
    pin = {k: live["metadata"][k] for k in (("uid", "resourceVersion") if pinned else ("uid",))}
    body = {**wanted, "metadata": {**wanted["metadata"], **pin}}
    said: list[str] = []
    force = False
    try:
        after = client.apply(body, dry_run=True, warnings=said)
    except Conflict as error:
        if not error.managers or not adopt:
            raise _titled(error, live) from None
        said.append(f"{_title(live)}: took over {', '.join(error.fields)} from {', '.join(error.managers)}.")
        force = True
        after = client.apply(body, dry_run=True, force=True, warnings=said)
    if _plain(after) == _plain(live):
        before = tried[0] if tried else live
        action = "unchanged" if _plain(before) == _plain(live) else "changed"
        return Change(kind, name, namespace, action, before, live, tuple(said))
    before = live
    if not check_mode:
        tried.append(live)
        try:
            after = client.apply(body, force=force)
        except Conflict as error:
            raise (_titled(error, live) if error.managers else error) from None
        before = tried[0]
    return Change(kind, name, namespace, "changed", before, after, tuple(said))


def _take_over(
    client: Client, wanted: dict[str, Any], live: dict[str, Any], check_mode: bool, tried: list[dict[str, Any]]
) -> Change:
    """Make somebody else's object ours in one change: what they set and we don't goes, what controllers hold stays.

    The content is right after the first write, so pods are renewed once, and a webhook that refuses the object as it
    was (KServe 0.16, its mode) meets none of it. The second one moves the fields to us; cut off before it, the first
    one's manager tells the next run to do it.
    """
    kind, name, namespace = _names(wanted)
    said: list[str] = []
    planned = client.apply(_pinned(wanted, live), dry_run=True, force=True, warnings=said)
    if check_mode:
        after = without_leftovers(planned, live)
    else:
        tried.append(live)  # a controller may write between the two, and then the next round meets what is half ours
        changes = _merge_patch(live, without_leftovers(planned, live))
        held = client.patch(live, _pinned(changes, live), manager=ADOPTING) if changes else live
        after = client.patch(held, _pinned({"metadata": {"managedFields": taken_over(planned)}}, held))
    before = tried[0] if tried else live
    taken = {manager: tuple(paths(fields)) for manager, fields in theirs(before).items()}
    return Change(kind, name, namespace, "changed", before, after, tuple(said), taken)


def _merge_patch(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """What makes ``before`` into ``after``, apart from the server's bookkeeping."""
    changes: dict[str, Any] = {key: None for key in before if key not in after}
    for key, value in after.items():
        old = before.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            inner = _merge_patch(old, value)
            if inner:
                changes[key] = inner
        elif key not in before or old != value:
            changes[key] = value
    return {key: value for key, value in changes.items() if key not in _NOISE}


def _pinned(body: dict[str, Any], live: dict[str, Any]) -> dict[str, Any]:
    """The server refuses it when the object is another one, or another version of it, by then."""
    pin = {key: live["metadata"][key] for key in ("uid", "resourceVersion")}
    return {**body, "metadata": {**(body.get("metadata") or {}), **pin}}


def _refuse_foreign(live: dict[str, Any], adopt: bool) -> None:
    if adopt or is_ours(live):
        return
    raise Foreign(
        f"{_title(live)} exists and isn't ours: {owner(live)}. "
        "Choose another name, remove it, or take it over with adopt: true."
    )


# words and forms


def _names(obj: dict[str, Any]) -> tuple[str, str, str | None]:
    return obj["kind"], obj["metadata"]["name"], obj["metadata"].get("namespace")


def _title(obj: dict[str, Any]) -> str:
    kind, name, namespace = _names(obj)
    return f"{kind} {namespace}/{name}" if namespace else f"{kind} {name}"


def _titled(error: Conflict, live: dict[str, Any]) -> Conflict:
    return Conflict(f"{_title(live)}: {error.message}", managers=error.managers, fields=error.fields, status=409)


def _held(live: dict[str, Any]) -> str:
    meta = live["metadata"]
    holders = f", held by {', '.join(meta['finalizers'])}" if meta.get("finalizers") else ""
    return f" (since {meta['deletionTimestamp']}{holders})"


def _plain(obj: dict[str, Any] | None) -> dict[str, Any]:
    """Without what the server keeps for itself: what is left is what people and we decide."""
    if not obj:
        return {}
    plain = {k: v for k, v in obj.items() if k != "status"}
    meta = {k: v for k, v in obj["metadata"].items() if k not in _NOISE}
    if LAST_APPLIED in (meta.get("annotations") or {}):
        meta["annotations"] = {k: v for k, v in meta["annotations"].items() if k != LAST_APPLIED}
    plain["metadata"] = {k: v for k, v in meta.items() if v not in ({}, [], None)}
    return plain
