# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""The way back: specifications that were ready once, as ControllerRevisions that belong to their InferenceService.

An annotation says to which release an upgrade was on its way when it left a revision: whoever finds it goes on. It may
not be on the InferenceService, whose annotations get into the pods.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from ansible_collections.gpuops.nim.plugins.module_utils._kube.apply import Change, ensure, ensure_absent
from ansible_collections.gpuops.nim.plugins.module_utils._kube.client import Client
from ansible_collections.gpuops.nim.plugins.module_utils._kube.ownership import owned
from ansible_collections.gpuops.nim.plugins.module_utils._kube.redact import LAST_APPLIED
from ansible_collections.gpuops.nim.plugins.module_utils._nim import manifests, release
from ansible_collections.gpuops.nim.plugins.module_utils._nim.names import PREFIX, STOP_ANNOTATION

API_VERSION, KIND = "apps/v1", "ControllerRevision"
UPGRADING = PREFIX + "upgrading-to"

Object = dict[str, Any]


@dataclass(frozen=True)
class Revision:
    """``content``: labels, annotations and spec as `content_of` gives them; ``upgrading``: to which release, if any."""

    name: str
    number: int
    content: Object
    upgrading: str = ""


def content_of(live: Object) -> Object:
    """Return what to apply to have the service as it is: the fields that we own, or all where we own no container."""
    mine = owned(live)
    main = (mine.get("spec") or {}).get("predictor") or {}
    source = mine if main.get("containers") or main.get("model") else live
    meta = source["metadata"]
    kept: Object = {}
    for part in ("labels", "annotations"):
        values = {k: v for k, v in (meta.get(part) or {}).items() if k not in (LAST_APPLIED, STOP_ANNOTATION)}
        if values:
            kept[part] = values
    content = {"metadata": kept, "spec": source["spec"]}
    # the image may be in other hands; whoever writes it back has to say so
    return release.changed(content, release.of(live))


def as_object(content: Object, live: Object) -> Object:
    """Return the InferenceService that `ensure` takes, from a content."""
    meta = live["metadata"]
    return {
        "apiVersion": manifests.API_VERSION,
        "kind": manifests.KIND,
        "metadata": {"name": meta["name"], "namespace": meta["namespace"], **content["metadata"]},
        "spec": content["spec"],
    }


def of(client: Client, live: Object) -> list[Revision]:
    """Return the revisions of a service, the newest first; those of an earlier service of its name don't count."""
    meta = live["metadata"]
    found = client.list(API_VERSION, KIND, meta["namespace"], labels=f"{manifests.SERVICE_LABEL}={meta['name']}").items
    mine = [
        Revision(
            each["metadata"]["name"],
            int(each["revision"]),
            each.get("data") or {},
            str((each["metadata"].get("annotations") or {}).get(UPGRADING) or ""),
        )
        for each in found
        if any(owner.get("uid") == meta["uid"] for owner in each["metadata"].get("ownerReferences") or ())
    ]
    return sorted(mine, key=lambda revision: revision.number, reverse=True)


def write(
    client: Client, live: Object, content: Object, known: list[Revision], *, upgrading: str, check_mode: bool
) -> tuple[Revision, Change]:
    """Make the content the newest revision, on the way to another release; an empty ``upgrading`` ends that."""
    meta = live["metadata"]
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:10]
    name = f"{meta['name']}-{digest}"
    newest = known[0] if known else None
    number = newest.number + (newest.name != name) if newest else 1
    owner = {"apiVersion": manifests.API_VERSION, "kind": manifests.KIND, "name": meta["name"], "uid": meta["uid"]}
    obj: Object = {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {
            "name": name,
            "namespace": meta["namespace"],
            "labels": {manifests.SERVICE_LABEL: meta["name"]},
            "ownerReferences": [owner],
        },
        "revision": number,
        "data": content,
    }
    if upgrading:
        obj["metadata"]["annotations"] = {UPGRADING: upgrading}
    change = ensure(client, obj, check_mode=check_mode)
    return Revision(name, number, content, upgrading), change


def prune(client: Client, live: Object, known: list[Revision], keep: int, *, check_mode: bool) -> list[Change]:
    """Remove what is older than the newest ``keep``."""
    namespace = live["metadata"]["namespace"]
    return [
        ensure_absent(client, API_VERSION, KIND, revision.name, namespace, check_mode=check_mode)
        for revision in known[keep:]
    ]
