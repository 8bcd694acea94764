# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""The two Secrets of a NIM: what the kubelet pulls the image with, and what the container starts with."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import secrets
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Optional, cast

from ansible_collections.gpuops.nim.plugins.module_utils._kube.apply import Change, ensure, ensure_absent
from ansible_collections.gpuops.nim.plugins.module_utils._kube.auth import connect
from ansible_collections.gpuops.nim.plugins.module_utils._kube.client import Client
from ansible_collections.gpuops.nim.plugins.module_utils._kube.errors import (
    Forbidden,
    KubeError,
    Unauthorized,
    Unreachable,
)
from ansible_collections.gpuops.nim.plugins.module_utils._kube.redact import HIDDEN
from ansible_collections.gpuops.nim.plugins.module_utils._ngc.key import BadKey, clean
from ansible_collections.gpuops.nim.plugins.module_utils._nim.capacity import NOT_OVER
from ansible_collections.gpuops.nim.plugins.module_utils._nim.manifests import (
    API_VERSION,
    ISVC_LABEL,
    KIND,
    SALT_ANNOTATION,
    pull_secret,
    runtime_secret,
)
from ansible_collections.gpuops.nim.plugins.module_utils._nim.options.check import DNS_LABEL, SUBDOMAIN
from ansible_collections.gpuops.nim.plugins.module_utils._ops import key_users
from ansible_collections.gpuops.nim.plugins.module_utils._ops.namespace import ensure_namespace
from ansible_collections.gpuops.nim.plugins.module_utils._ops.result import OpsError, Progress, Result

Json = dict[str, Any]
PULL, RUNTIME = "pull", "runtime"


@dataclass(frozen=True)
class Wanted:
    """One of the two, wherever it goes."""

    kind: str
    name: str
    main: str = ""  # the registry or variable whose fingerprint stands for the whole
    manifest: Optional[Callable[[str, str], Json]] = None  # of a namespace and a salt


@dataclass
class Report:
    """What is known so far; becomes the result, or the data of the error."""

    progress: Progress
    check_mode: bool
    changes: list[Change] = field(default_factory=list)
    entries: list[Json] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def add(self, change: Change) -> None:
        self.changes.append(change)
        self.warnings.extend(change.warnings)
        if change.changed:
            place = f" in {change.namespace}" if change.namespace else ""
            done = f"would be {change.action}" if self.check_mode else change.action
            self.progress(f"{change.kind} {change.name}{place}: {done}")

    @property
    def changed(self) -> bool:
        return any(change.changed for change in self.changes)

    @property
    def data(self) -> Json:
        old = [f"{entry['namespace']}/{pod}" for entry in self.entries for pod in entry["pods_with_old_key"]]
        return {"secrets": self.entries, "pods_with_old_key": old, "pods_unknown": self.unknown}

    @property
    def diff(self) -> list[Json]:
        return [_diff(change) for change in self.changes if change.changed]


def run(params: Mapping[str, Any], *, check_mode: bool, diff: bool, progress: Progress) -> Result:
    """Makes or removes both Secrets in each of ``params["namespaces"]``; one that fails doesn't stop the others.

    :raises BadKey: a key that can't be one; nothing was sent.
    :raises OpsError: a namespace failed; what was done is in the error's data.
    :raises KubeError: there is no way to the cluster.
    """
    namespaces = [name for name in dict.fromkeys(params["namespaces"]) if name]
    wrong = misnamed(params, namespaces)
    if not namespaces:
        wrong.append("namespaces: at least one is needed.")
    if wrong:
        raise OpsError("\n".join(wrong))
    present = params["state"] == "present"
    wanted = _wanted(params) if present else _named(params)
    client = connect(params)
    report = Report(progress, check_mode)
    failures: list[str] = []
    salt = ""
    for namespace in namespaces:
        try:
            if present:
                salt = put(client, namespace, wanted, salt, params, check_mode, report)
            else:
                _absent(client, namespace, wanted, params, check_mode, report)
        except (KubeError, OpsError) as error:
            failures.append(str(error))
            if isinstance(error, (Unreachable, Unauthorized)):
                break  # the next namespace would wait as long for the same answer
    shown = report.diff if diff else []
    if failures:
        raise OpsError(
            "\n".join(failures), data=report.data, changed=report.changed, diff=shown, warnings=report.warnings
        )
    return Result(report.changed, report.data, shown, report.warnings)


def misnamed(params: Mapping[str, Any], namespaces: Sequence[str]) -> list[str]:
    """What is wrong with the names; all of it, so that a person has to correct them only once."""
    wrong = []
    for name in namespaces:
        if not DNS_LABEL.fullmatch(name):
            rule = "at most 63 lower-case letters, digits and '-'"
            wrong.append(f"namespaces: {name!r} is not a name for a namespace: {rule}.")
    for option in ("pull_secret", "runtime_secret"):
        if not SUBDOMAIN.fullmatch(params[option]):
            rule = "lower-case letters, digits, '-' and '.'"
            wrong.append(f"{option}: {params[option]!r} is not a Secret's name: {rule}.")
    if params["pull_secret"] == params["runtime_secret"]:
        wrong.append("pull_secret and runtime_secret are two Secrets of different types: they need different names.")
    for index, registry in enumerate(params["registries"]):
        host = registry["host"]
        if not re.fullmatch(r"[A-Za-z0-9.-]+(:\d{1,5})?(/[\w./-]*)?", host):
            wrong.append(
                f"registries[{index}].host: {host!r} is not a registry's name; without https://, for example nvcr.io."
            )
    return wrong


def _named(params: Mapping[str, Any]) -> list[Wanted]:
    return [Wanted(PULL, params["pull_secret"]), Wanted(RUNTIME, params["runtime_secret"])]


def _wanted(params: Mapping[str, Any]) -> list[Wanted]:
    key = clean(params["ngc_api_key"])
    values = {"NGC_API_KEY": key}
    if params["hf_token"]:
        values["HF_TOKEN"] = clean(params["hf_token"], option="hf_token")
    auths: dict[str, tuple[str, str, str]] = {}
    for index, registry in enumerate(params["registries"]):
        given = registry["password"]
        password = key if given is None else given.strip()
        if not password:
            # most likely a variable that is empty; the NGC key must not go to somebody else's registry instead
            raise BadKey(f"registries[{index}].password: is empty; leave it out to use the NGC key.")
        auths[registry["host"]] = (registry["host"], registry["username"], password)
    if not auths:
        raise OpsError("registries: at least one is needed.")
    pull, runtime = params["pull_secret"], params["runtime_secret"]
    return [
        Wanted(PULL, pull, next(iter(auths)), lambda ns, salt: pull_secret(pull, ns, list(auths.values()), salt)),
        Wanted(RUNTIME, runtime, "NGC_API_KEY", lambda ns, salt: runtime_secret(runtime, ns, values, salt)),
    ]


def put(
    client: Client,
    namespace: str,
    wanted: Sequence[Wanted],
    salt: str,
    params: Mapping[str, Any],
    check_mode: bool,
    report: Report,
) -> str:
    """Makes the Secrets be as wanted, with what ``params`` say of ``create_namespace`` and ``adopt``.

    :returns: the salt that new Secrets of the next namespace get, so that equal keys have equal fingerprints.
    :raises KubeError: Foreign for what others made, unless ``adopt``.
    """
    live = [client.get("v1", "Secret", secret.name, namespace) for secret in wanted]
    if not all(live):
        made = ensure_namespace(client, namespace, create=params["create_namespace"], check_mode=check_mode)
        if made:
            report.add(made)
    salts = [_salt(secret) for secret in live]
    # a live Secret keeps its salt: a new one would be a change
    salt = next(filter(None, [*salts, salt]), "") or secrets.token_hex(8)
    for secret, was, own in zip(wanted, live, salts):
        manifest = cast(Callable[[str, str], Json], secret.manifest)(namespace, own or salt)
        change = ensure(client, manifest, check_mode=check_mode, adopt=params["adopt"], live=was)
        report.add(change)
        current = change.after if change.changed else change.before
        old: list[str] = []
        if secret.kind == RUNTIME:
            old, unknown = _pods(client, namespace, secret.name, current or {}, report.warnings)
            report.unknown.extend(f"{namespace}/{pod}" for pod in unknown)
        report.entries.append(_entry(change, secret, fingerprints(current), old))
    return salt


def _absent(
    client: Client,
    namespace: str,
    wanted: list[Wanted],
    params: Mapping[str, Any],
    check_mode: bool,
    report: Report,
) -> None:
    for secret in wanted:
        users = [] if params["removed_with"] is None else _users(client, namespace, secret, params["removed_with"])
        live = client.get("v1", "Secret", secret.name, namespace) if users else None
        if live:
            change = Change("Secret", secret.name, namespace, "unchanged", live, live)
            report.warnings.append(f"Secret {namespace}/{secret.name} stays, used by {', '.join(users)}.")
        else:
            change = ensure_absent(
                client, "v1", "Secret", secret.name, namespace, check_mode=check_mode, adopt=params["adopt"]
            )
        report.add(change)
        report.entries.append(_entry(change, secret, fingerprints(live) if live else {}, []))


def _users(client: Client, namespace: str, secret: Wanted, removed: Collection[str]) -> list[str]:
    """What uses the Secret beside the services that are removed, of which in check mode all is still there."""
    names = key_users.Names(secret.name, "") if secret.kind == PULL else key_users.Names("", secret.name)
    services = [
        key_users.KeyService(isvc, None, ())
        for isvc in key_users.named(client, API_VERSION, KIND, [namespace])
        if "deletionTimestamp" not in isvc["metadata"]
    ]
    found = [str(each) for each in services if str(each) not in removed and names.used_by(each.pod)]
    gone = {*removed, *found}  # those that have been told need not be told by their pods
    for pod in client.list("v1", "Pod", namespace, fields=NOT_OVER).items:
        service = f"{namespace}/{(pod['metadata'].get('labels') or {}).get(ISVC_LABEL)}"
        if "deletionTimestamp" not in pod["metadata"] and service not in gone and names.used_by(pod["spec"]):
            found.append(f"pod {pod['metadata']['name']}")
    return found


def _entry(change: Change, secret: Wanted, marks: Mapping[str, Optional[str]], old: list[str]) -> Json:
    return {
        "namespace": change.namespace,
        "name": secret.name,
        "kind": secret.kind,
        "action": change.action,
        "fingerprint": marks.get(secret.main),
        "fingerprints": dict(marks),
        "pods_with_old_key": old,
    }


# What may be shown of a Secret


def fingerprints(secret: Optional[Json]) -> dict[str, Optional[str]]:
    """Variable or registry to the first 12 hex digits of its value's HMAC-SHA256; None where the Secret has no salt."""
    salt = _salt(secret)
    return {
        name: hmac.new(salt.encode(), value, hashlib.sha256).hexdigest()[:12] if salt else None
        for name, value in sorted(_contents(secret or {}))
    }


def _salt(secret: Optional[Json]) -> str:
    annotations = ((secret or {}).get("metadata") or {}).get("annotations") or {}
    return str(annotations.get(SALT_ANNOTATION) or "")


def _contents(secret: Json) -> Iterator[tuple[str, bytes]]:
    for name, encoded in (secret.get("data") or {}).items():
        value = base64.b64decode(encoded)
        if name != ".dockerconfigjson":
            yield name, value
            continue
        try:
            auths = json.loads(value)["auths"].items()
            yield from ((host, str(auth.get("password") or auth.get("auth")).encode()) for host, auth in auths)
        except (ValueError, KeyError, AttributeError):
            yield name, value  # somebody's own idea of a docker config


def _diff(change: Change) -> Json:
    """The change's diff with a fingerprint beside each hidden value, so that a new key can be seen."""
    shown = change.diff
    if change.kind == "Secret":
        for side, secret in (("before", change.before), ("after", change.after)):
            if secret:
                marks = fingerprints(secret).items()
                shown[side]["data"] = {name: f"{HIDDEN} {mark}" if mark else HIDDEN for name, mark in marks}
            if _salt(secret):
                # with it, a weak password could be guessed from its fingerprint
                shown[side]["metadata"]["annotations"][SALT_ANNOTATION] = HIDDEN
    return shown


# Who still runs with the old key


def _pods(client: Client, namespace: str, name: str, secret: Json, warnings: list[str]) -> tuple[list[str], list[str]]:
    """Pods with a container that started before the values it was given changed; and those where nobody can know."""
    try:
        pods = client.list("v1", "Pod", namespace).items
    except Forbidden as error:
        warnings.append(f"Which pods still run with an old key is unknown: {error}")
        return [], ["*"]
    changed = changed_at(secret)
    old, unknown = [], []
    for pod in pods:
        found = set(ages(pod, name, changed))
        if "old" in found:
            old.append(pod["metadata"]["name"])
        elif "unknown" in found:
            unknown.append(pod["metadata"]["name"])
    return old, unknown


def changed_at(secret: Json) -> dict[str, str]:
    """Key of data to the time of its last change.

    A manager's time moves with each of its own changes, and a manager whose value is overwritten loses the key: so the
    value is at least as old as the earliest time among those who own it.
    """
    times: dict[str, str] = {}
    for entry in (secret.get("metadata") or {}).get("managedFields") or []:
        for owned in (entry.get("fieldsV1") or {}).get("f:data") or {}:
            if entry.get("time") and owned.startswith("f:"):
                times[owned[2:]] = min(entry["time"], times.get(owned[2:], entry["time"]))
    return times


def ages(pod: Json, name: str, changed: Mapping[str, str], only: Optional[Collection[str]] = None) -> Iterator[str]:
    """For each running container that takes a variable (of ``only``, if given) from the Secret: old, new or unknown."""
    made = pod["metadata"].get("creationTimestamp") or ""
    status = pod.get("status") or {}
    states = [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]
    # the variables are read again whenever a container starts, so its own start counts and not the pod's
    started = {state["name"]: ((state.get("state") or {}).get("running") or {}).get("startedAt") for state in states}
    for container in [*(pod["spec"].get("initContainers") or []), *pod["spec"]["containers"]]:
        start = started.get(container["name"])
        if not start:
            continue
        for key in _keys(container, name, changed):
            if only is not None and key and key not in only:
                continue
            # all these times have whole seconds; that of the start is by the node's clock, the others by the server's
            if key not in changed:
                yield "unknown"
            elif made > changed[key]:
                yield "new"
            elif start == changed[key]:
                yield "unknown"
            else:
                yield "old" if start < changed[key] else "new"


def _keys(container: Json, name: str, changed: Mapping[str, str]) -> Iterator[str]:
    for source in container.get("envFrom") or []:
        if (source.get("secretRef") or {}).get("name") == name:
            yield from changed or ("",)
    for variable in container.get("env") or []:
        reference = (variable.get("valueFrom") or {}).get("secretKeyRef") or {}
        if reference.get("name") == name:
            yield reference["key"]
