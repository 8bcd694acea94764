# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""Any objects, many in one task: put there in an order that works, waited for, removed."""

from __future__ import annotations

import contextlib
import copy
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ansible_collections.gpuops.nim.plugins.module_utils._kube import rollout
from ansible_collections.gpuops.nim.plugins.module_utils._kube.apply import Change, ensure, ensure_absent
from ansible_collections.gpuops.nim.plugins.module_utils._kube.auth import connect
from ansible_collections.gpuops.nim.plugins.module_utils._kube.client import Client
from ansible_collections.gpuops.nim.plugins.module_utils._kube.errors import KindMissing, KubeError
from ansible_collections.gpuops.nim.plugins.module_utils._kube.obstacles import Obstacles
from ansible_collections.gpuops.nim.plugins.module_utils._kube.watch import Mirror, Query
from ansible_collections.gpuops.nim.plugins.module_utils._ops.result import OpsError, Progress, Result

Object = dict[str, Any]

CRD = "CustomResourceDefinition"
_FIRST = ("Namespace", CRD)  # what others need
_HEARTBEAT = 20.0
_CRD_SECONDS = 30.0  # the API server needs one or two
_NAMED = 10  # objects in a refusal


def run(params: Mapping[str, Any], *, check_mode: bool, diff: bool, progress: Progress) -> Result:
    """Make the objects of ``params["objects"]`` be as they say, or be gone.

    :raises OpsError: what is given is no object, or some of it failed; what was done is in the error's data.
    :raises KubeError: there is no way to the cluster.
    """
    objects = params["objects"]
    wrong = [text for index, obj in enumerate(objects) if (text := _wrong(obj, index))]
    if wrong:
        raise OpsError("\n".join(wrong))
    batch = Batch(connect(params), check_mode=check_mode, diff=diff, progress=progress, adopt=params["adopt"])
    timeout = params["wait_timeout"] if params["wait"] else 0
    with batch.reporting():
        if params["state"] == "present":
            batch.apply(objects)
            batch.wait_rolled_out(objects, timeout)
        else:
            batch.remove(objects, with_custom_objects=params["delete_custom_objects"])
            batch.wait_gone(objects, timeout)
    return batch.result()


def _wrong(obj: Any, index: int) -> str:
    named = isinstance(obj, dict) and isinstance(obj.get("metadata"), dict) and obj["metadata"].get("name")
    if named and all(isinstance(obj.get(key), str) for key in ("apiVersion", "kind")):
        return ""
    title = f" ({obj.get('kind')})" if isinstance(obj, dict) else ""
    return f"objects[{index}]{title}: an object needs apiVersion, kind and metadata.name."


class Batch:
    """The changes of one task, in their order."""

    def __init__(
        self, client: Client, *, check_mode: bool, diff: bool, progress: Progress, adopt: bool = False
    ) -> None:
        self.client = client
        self.check_mode = check_mode
        self.changes: list[Change] = []
        self.warnings: list[str] = []
        self._diff = diff
        self._progress = progress
        self._adopt = adopt

    # what is done

    def apply(self, objects: Iterable[Object]) -> None:
        """Namespaces first, then CRDs until the server knows their kinds, then the rest in its order."""
        ordered = sorted(objects, key=lambda obj: _rank(obj["kind"]))
        planned = {_kind_of(obj) for obj in ordered if obj["kind"] == CRD}
        pending = [obj for obj in ordered if obj["kind"] == CRD]
        for obj in ordered:
            if pending and _rank(obj["kind"]) == len(_FIRST) and not self.check_mode:
                self._wait_served(pending)
                pending = []
            self._note(self._ensure(obj, planned))
        if pending and not self.check_mode:
            self._wait_served(pending)

    def remove(self, objects: Iterable[Object], *, with_custom_objects: bool = False) -> None:
        """The other way round.

        :raises OpsError: objects of a CRD are there, which would go with it, and nobody said that they may.
        """
        backwards = sorted(objects, key=lambda obj: _rank(obj["kind"]))[::-1]
        if not with_custom_objects:
            self._refuse_loss([obj for obj in backwards if obj["kind"] == CRD], backwards)
        for obj in backwards:
            try:
                namespace = self._namespace(obj)
            except KindMissing:
                self._note(Change(obj["kind"], obj["metadata"]["name"], None, "absent", None, None))
                continue
            name = obj["metadata"]["name"]
            change = ensure_absent(
                self.client,
                obj["apiVersion"],
                obj["kind"],
                name,
                namespace,
                check_mode=self.check_mode,
                adopt=self._adopt,
            )
            self._note(change)

    def wait_rolled_out(self, objects: Iterable[Object], timeout: float) -> None:
        """Wait until the Deployments and DaemonSets among the objects are up as they are written now.

        :raises OpsError: they are not in time, or never will be; names pods, nodes and reasons.
        """
        names = {
            (obj["kind"], obj["metadata"].get("namespace"), obj["metadata"]["name"])
            for obj in objects
            if obj["kind"] in rollout.KINDS
        }
        if not names or not timeout or self.check_mode:
            return
        queries = {Query("apps/v1", kind, namespace) for kind, namespace, _name in names}
        queries |= {Query("v1", "Pod", namespace) for _kind, namespace, _name in names}
        begun = time.monotonic()
        said: dict[Any, list[str]] = {}
        beat = begun + _HEARTBEAT
        obstacles = Obstacles(self.client)
        with Mirror(self.client, sorted(queries, key=str)) as mirror:
            listed = False
            before = set(names)  # what had been given up when we came, and may be mended
            while True:
                listed = mirror.wait(max(0.0, min(begun + timeout, beat) - time.monotonic())) or listed
                waited = time.monotonic() - begun
                late, due = waited >= timeout, time.monotonic() >= beat
                open_ = {name: ["it is looked for"] for name in names}
                if listed:
                    open_ = self._open(mirror, names, obstacles, look=late or due)
                if not open_:
                    return
                beat = beat + _HEARTBEAT if due else beat
                for name, lines in open_.items():
                    if due or said.get(name) != lines:
                        said[name] = lines
                        self._progress(f"[{_title(*name)}] {waited:.0f} s: {mirror.trouble() or '; '.join(lines)}")
                given_up = {
                    name for name in open_ for found in (self._find(mirror, name),) if found and rollout.hopeless(found)
                }
                before = before & given_up if listed else before
                given_up = given_up - before
                if late or given_up:
                    told = open_ if late else {name: open_[name] for name in given_up}
                    why = f"after {timeout} s (wait_timeout)" if late else "and its controller has given up"
                    raise OpsError(
                        "\n".join(f"{_title(*name)} is not up {why}: {'; '.join(ls)}" for name, ls in told.items())
                    )

    def wait_gone(self, objects: Iterable[Object], timeout: float) -> None:
        """Wait until none of the objects is there any more. Raises OpsError naming what is left."""
        if not timeout or self.check_mode:
            return
        deadline = time.monotonic() + timeout
        left = list(objects)
        pause = 0.1
        while True:
            left = [obj for obj in left if self._there(obj)]
            if not left:
                return
            if time.monotonic() >= deadline:
                titles = ", ".join(_title_of(obj) for obj in left)
                raise OpsError(f"Not gone after {timeout} s (wait_timeout): {titles}.")
            time.sleep(pause)
            pause = min(pause * 1.5, 2.0)

    # what is told

    @contextlib.contextmanager
    def reporting(self) -> Iterator[None]:
        """``with batch.reporting():`` gives errors what was done until then."""
        try:
            yield
        except (KubeError, OpsError) as error:
            if not self.changes:
                raise
            more = error.data if isinstance(error, OpsError) else {}
            raise OpsError(
                str(error), data={**self.data, **more}, changed=self.changed, diff=self.diff, warnings=self.warnings
            ) from None

    def result(self, **more: Any) -> Result:
        return Result(self.changed, {**self.data, **more}, self.diff, self.warnings)

    @property
    def changed(self) -> bool:
        return any(change.changed for change in self.changes)

    @property
    def data(self) -> Object:
        return {
            "objects": [
                {"kind": each.kind, "name": each.name, "namespace": each.namespace, "action": each.action}
                for each in self.changes
            ]
        }

    @property
    def diff(self) -> list[Object]:
        return [change.diff for change in self.changes if change.changed] if self._diff else []

    def _note(self, change: Change) -> None:
        self.changes.append(change)
        self.warnings.extend(change.warnings)
        if change.changed:
            done = f"would be {change.action}" if self.check_mode else change.action
            self._progress(f"{_title(change.kind, change.namespace, change.name)}: {done}")

    # how

    def _ensure(self, obj: Object, planned: set[tuple[str, str]]) -> Change:
        wanted = _clean(obj)
        if wanted.keys() <= {"apiVersion", "kind", "metadata"} and wanted["kind"] == "Namespace":
            name = wanted["metadata"]["name"]
            live = self.client.get("v1", "Namespace", name) if wanted["metadata"].keys() == {"name"} else None
            if live:  # it only has to be there, whoever made it
                return Change("Namespace", name, None, "unchanged", live, live)
        try:
            namespace = self._namespace(obj)
            if namespace is None:
                wanted["metadata"].pop("namespace", None)
            return ensure(self.client, wanted, check_mode=self.check_mode, adopt=self._adopt)
        except KindMissing:
            group = obj["apiVersion"].partition("/")[0]
            if not self.check_mode or (group, obj["kind"]) not in planned:
                raise
            kind, name = obj["kind"], obj["metadata"]["name"]
            said = f"The cluster doesn't know the kind {kind} yet: {name} is shown as its manifest, unchecked."
            return Change(kind, name, obj["metadata"].get("namespace"), "created", None, wanted, (said,))

    def _namespace(self, obj: Object) -> str | None:
        """Where the object is; ``None`` for kinds that live in no namespace, whatever the manifest says."""
        if not self.client.namespaced(obj["apiVersion"], obj["kind"]):
            return None
        namespace = obj["metadata"].get("namespace")
        if not namespace:
            raise OpsError(f"{obj['kind']} {obj['metadata']['name']}: metadata.namespace is missing.")
        return str(namespace)

    def _wait_served(self, definitions: Sequence[Object]) -> None:
        """Until the kinds can be used: what Established says, and a moment more."""
        deadline = time.monotonic() + _CRD_SECONDS
        for crd in definitions:
            names, group = crd["spec"]["names"], crd["spec"]["group"]
            version = next(each["name"] for each in crd["spec"]["versions"] if each.get("served"))
            while not self.client.serves(f"{group}/{version}", names["kind"]):
                if time.monotonic() >= deadline:
                    name = crd["metadata"]["name"]
                    live = self.client.get(crd["apiVersion"], CRD, name) or {}
                    said = "; ".join(
                        f"{each['type']} is {each['status']}: {each.get('message', '')}"
                        for each in (live.get("status") or {}).get("conditions") or ()
                        if each["status"] != "True"
                    )
                    raise OpsError(f"{CRD} {name} is not established after {_CRD_SECONDS:.0f} s. {said}".strip())
                time.sleep(0.1)

    def _refuse_loss(self, definitions: Sequence[Object], also_removed: Sequence[Object]) -> None:
        going = {(obj["kind"], obj["metadata"]["name"]) for obj in also_removed}
        kept: list[str] = []
        for crd in definitions:
            names, group = crd["spec"]["names"], crd["spec"]["group"]
            for version in crd["spec"]["versions"]:
                try:
                    found = self.client.list(f"{group}/{version['name']}", names["kind"], metadata_only=True).items
                except KindMissing:
                    continue
                kept += [_title_of(obj) for obj in found if (obj["kind"], obj["metadata"]["name"]) not in going]
                break
        if kept:
            more = f" and {len(kept) - _NAMED} more" if len(kept) > _NAMED else ""
            raise OpsError(
                f"Nothing was removed: {', '.join(kept[:_NAMED])}{more} would go with the kind that they are of. "
                "Remove them first, or allow it."
            )

    def _open(
        self, mirror: Mirror, names: Iterable[tuple[str, str | None, str]], obstacles: Obstacles, *, look: bool
    ) -> dict[tuple[str, str | None, str], list[str]]:
        pods = mirror.objects("Pod")
        open_ = {}
        for name in sorted(names, key=str):
            found = self._find(mirror, name)
            near = [pod for pod in pods if pod["metadata"].get("namespace") == name[1]]
            if found and look:
                obstacles.look(pod for pod in near if rollout.selects(found["spec"]["selector"], pod))
            lines = rollout.missing(found, near, obstacles) if found else ["it is gone"]
            if lines:
                open_[name] = lines
        return open_

    @staticmethod
    def _find(mirror: Mirror, name: tuple[str, str | None, str]) -> Object | None:
        for obj in mirror.objects(name[0]):
            if (obj["metadata"].get("namespace"), obj["metadata"]["name"]) == name[1:]:
                return obj
        return None

    def _there(self, obj: Object) -> bool:
        try:
            namespace = self._namespace(obj)
            return self.client.get(obj["apiVersion"], obj["kind"], obj["metadata"]["name"], namespace) is not None
        except KindMissing:
            return False


def _rank(kind: str) -> int:
    return _FIRST.index(kind) if kind in _FIRST else len(_FIRST)


def _kind_of(crd: Object) -> tuple[str, str]:
    return crd["spec"]["group"], crd["spec"]["names"]["kind"]


def _clean(obj: Object) -> Object:
    """Without what only the server sets, which generators of manifests often leave in."""
    wanted = {key: copy.deepcopy(value) for key, value in obj.items() if key != "status"}
    wanted["metadata"].pop("creationTimestamp", None)
    return wanted


def _title(kind: str, namespace: str | None, name: str) -> str:
    return f"{kind} {namespace}/{name}" if namespace else f"{kind} {name}"


def _title_of(obj: Object) -> str:
    return _title(obj["kind"], obj["metadata"].get("namespace"), obj["metadata"]["name"])
