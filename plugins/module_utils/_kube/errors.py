# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""What can go wrong between us and an API server, as types. A message is a sentence or two and holds no secret."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any


class KubeError(Exception):
    """Anything the cluster layer raises. ``message`` is for people, ``status`` the HTTP status if there was one.

    ``retry_after`` is what the server asked for, in seconds.
    """

    def __init__(self, message: str, *, status: int | None = None, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.retry_after = retry_after


class ConfigError(KubeError):
    """An option or the kubeconfig can't work: the message says which, what is wrong and what would be right."""


class Unreachable(KubeError):
    """No usable answer: transport trouble, 408, 429 or 5xx.

    ``reason`` is the heart of the message in a few words; ``maybe_done`` is False when nothing can have happened;
    ``webhook`` names the admission webhook that is down while the server itself is well ("" otherwise).
    """

    def __init__(
        self, message: str, *, reason: str = "", maybe_done: bool = True, webhook: str = "", **rest: Any
    ) -> None:
        super().__init__(message, **rest)
        self.reason = reason or message
        self.maybe_done = maybe_done
        self.webhook = webhook


class Unauthorized(KubeError):
    """401, with freshly loaded credentials too."""


class Forbidden(KubeError):
    """RBAC refuses; the message holds the rule that is missing."""

    def __init__(self, message: str, *, verb: str, group: str, resource: str, namespace: str | None, **rest: Any):
        super().__init__(message, **rest)
        self.verb = verb
        self.group = group
        self.resource = resource
        self.namespace = namespace


class NotFound(KubeError):
    """The object named by ``resource`` (plural) and ``name`` isn't there."""

    def __init__(self, message: str, *, resource: str = "", name: str = "", **rest: Any) -> None:
        super().__init__(message, **rest)
        self.resource = resource
        self.name = name


class KindMissing(KubeError):
    """The API server doesn't serve this kind: its CRD isn't installed, or not in this version."""

    def __init__(self, api_version: str, kind: str, **rest: Any) -> None:
        super().__init__(f"The cluster doesn't serve {kind} ({api_version}): it isn't installed there.", **rest)
        self.api_version = api_version
        self.kind = kind


class Conflict(KubeError):
    """409. With ``managers`` and ``fields``: others hold fields we set. Without: the object changed under our hands."""

    def __init__(
        self, message: str, *, managers: tuple[str, ...] = (), fields: tuple[str, ...] = (), **rest: Any
    ) -> None:
        super().__init__(message, **rest)
        self.managers = managers
        self.fields = fields


class Invalid(KubeError):
    """The server can't accept the object; ``causes`` are (field, message) pairs."""

    def __init__(self, message: str, *, causes: tuple[tuple[str, str], ...] = (), **rest: Any) -> None:
        super().__init__(message, **rest)
        self.causes = causes


class AdmissionDenied(KubeError):
    """A webhook, policy or admission plugin refused; ``webhook`` names it ("" if the server doesn't say)."""

    def __init__(self, message: str, *, webhook: str = "", **rest: Any) -> None:
        super().__init__(message, **rest)
        self.webhook = webhook


class Foreign(KubeError):
    """The object exists and somebody else made it."""


class Deleting(KubeError):
    """The object, or its namespace, is on its way out and can't be changed any more."""


_RBAC = re.compile(
    r'User "(?P<user>[^"]*)" cannot (?P<verb>\w+) (?:resource "(?P<resource>[^"]*)" in API group "(?P<group>[^"]*)"'
    r'(?: in the namespace "(?P<namespace>[^"]*)")?|path "(?P<path>[^"]*)")'
)
_REFUSED = (
    re.compile(r'admission webhook "(?P<name>[^"]+)" denied the request'),
    re.compile(r"ValidatingAdmissionPolicy '(?P<name>[^']+)' with binding '[^']*' denied request"),
    re.compile(r"violates (?P<name>PodSecurity)"),
    re.compile(r"exceeded (?P<name>quota)"),
)
_WEBHOOK_DOWN = re.compile(r'failed calling webhook "([^"]+)": (?:failed to call webhook: )?(.*)', re.S)
_STORE = re.compile(r"etcdserver|request did not complete within the allotted timeout", re.I)
_NAMESPACE = re.compile(r"/namespaces/([^/?]+)/")
_LIMITS = (  # plugins that refuse for the namespace's own rules: the words, the rule's kind, what to do
    (re.compile(r"exceeded quota: (?P<rule>[\w.-]+)"), "quota", "Raise the quota, or remove what is not needed"),
    (
        re.compile(r"(maximum|minimum) \S+ usage per \w+ is \S+|ratio per \w+ is"),
        "limitrange",
        "Ask for a size within the namespace's LimitRange, or change that",
    ),
)
_UNTYPED = re.compile(r"failed to create typed (?:patch|live) object \([^)]*\): (?:errors:)?(.*)", re.S)
_UNTYPED_FIELD = re.compile(r"^\s*(\.\S.*?): (.+)$", re.M)
_SHORT = 500


def is_status(body: bytes) -> bool:
    """Whether the body is the API server's own error document (and not, say, that of a proxied service)."""
    return _status_document(body) is not None


def _status_document(body: bytes) -> dict[str, Any] | None:
    try:
        document = json.loads(body)
    except ValueError:
        return None
    if not isinstance(document, dict):
        return None
    # a request that times out in the server is answered without a kind
    bare = document.get("status") == "Failure" and "code" in document
    return document if document.get("kind") == "Status" or bare else None


def _retry_after(headers: Mapping[str, str]) -> float | None:
    value = headers.get("Retry-After") or ""
    return float(value) if value.isdigit() else None


def _kind_missing(path: str) -> KindMissing:
    parts = path.partition("?")[0].strip("/").split("/")
    group, parts = (parts[1:2], parts[2:]) if parts[0] == "api" else (parts[1:3], parts[3:])
    if len(parts) > 2 and parts[0] == "namespaces":
        parts = parts[2:]
    return KindMissing("/".join(group), parts[0] if parts else path, status=404)


def _forbidden(match: re.Match[str]) -> Forbidden:
    user, verb, namespace = match["user"], match["verb"], match["namespace"]
    if match["path"]:
        rule = f'{{nonResourceURLs: ["{match["path"]}"], verbs: ["{verb}"]}}'
        what, role = match["path"], "a ClusterRole"
    else:
        rule = f'{{apiGroups: ["{match["group"]}"], resources: ["{match["resource"]}"], verbs: ["{verb}"]}}'
        what = f"{match['resource']} in namespace {namespace}" if namespace else f"{match['resource']} of the cluster"
        role = f"a Role in namespace {namespace}" if namespace else "a ClusterRole"
    return Forbidden(
        f"User {user} may not {verb} {what}. Missing RBAC rule, for {role} bound to that user: {rule}",
        verb=verb,
        group=match["group"] or "",
        resource=match["resource"] or match["path"],
        namespace=namespace,
        status=403,
    )


def _conflict(text: str, causes: list[dict[str, Any]]) -> Conflict:
    taken = [c for c in causes if c.get("reason") == "FieldManagerConflict"]
    if not taken:
        return Conflict(text, status=409)
    managers, fields = [], []
    for cause in taken:
        name = re.search(r'conflict with "([^"]+)"( with subresource "[^"]+")?', cause.get("message", ""))
        managers.append(name[1] + (name[2] or "") if name else cause.get("message", "?"))
        fields.append(cause.get("field", "?"))
    held = "; ".join(f"{field} is held by {manager}" for manager, field in zip(managers, fields))
    return Conflict(
        f"{held}. Leave what others manage out of this task, or take it over with adopt: true.",
        managers=tuple(dict.fromkeys(managers)),
        fields=tuple(dict.fromkeys(fields)),
        status=409,
    )


def _with_remedy(text: str, path: str) -> str:
    namespace = _NAMESPACE.search(path)
    for pattern, kind, remedy in _LIMITS:
        match = pattern.search(text)
        if match and namespace:
            rule = match.groupdict().get("rule")
            return f"{text}. {remedy}: `kubectl -n {namespace[1]} describe {kind}{f' {rule}' if rule else ''}`."
    return text


def from_response(status: int, body: bytes, *, method: str, path: str, headers: Mapping[str, str]) -> KubeError:
    """The typed error for an answer with ``status`` >= 300; ``path`` may carry its query."""
    document = _status_document(body)
    text = (document.get("message") if document else body[:_SHORT].decode(errors="replace").strip()) or f"HTTP {status}"
    details = (document.get("details") if document else None) or {}
    causes = details.get("causes") or []

    for pattern in _REFUSED:
        match = pattern.search(text)
        if match and 400 <= status < 500:
            return AdmissionDenied(_with_remedy(text, path), webhook=match["name"], status=status)
    if any(cause.get("reason") == "NamespaceTerminating" for cause in causes):
        return Deleting(f"{text}. Wait until the namespace is gone, or use another.", status=status)
    untyped = _UNTYPED.search(text)
    if untyped:  # a misspelt field of a built-in kind: the server says 500, and would say so for ever
        fields = tuple((field, why.strip()) for field, why in _UNTYPED_FIELD.findall(untyped[1]))
        return Invalid(f"The server can't accept the object: {untyped[1].strip()}", causes=fields, status=status)

    if status == 401:
        return Unauthorized(f"The API server refused the credentials (401): {text}.", status=401)
    if status == 403:
        rbac = _RBAC.search(text)
        return _forbidden(rbac) if rbac else AdmissionDenied(_with_remedy(text, path), status=403)
    if status == 404:
        if details.get("name"):
            return NotFound(text, resource=details.get("kind", ""), name=details["name"], status=404)
        if document is None and "/proxy" in path:
            return NotFound(f"The service behind {path} answered 404: {text}", status=404)
        return _kind_missing(path)
    if status == 409:
        return _conflict(text, causes)
    if status in (400, 422):
        if "HTTP request to an HTTPS server" in text:
            return ConfigError("host: the API server speaks HTTPS only; begin the address with https://", status=400)
        pairs = tuple((str(c.get("field", "")), str(c.get("message", ""))) for c in causes)
        return Invalid(text, causes=pairs, status=status)
    if status in (408, 429) or status >= 500:
        down = _WEBHOOK_DOWN.search(text)
        reason = f"{text} (HTTP {status})"
        message = f"The API server says: {reason}"
        if down:
            message = (
                f"The admission webhook {down[1]} does not answer, and without it the API server takes no such change, "
                f"so nothing was written: {down[2]}. Get what serves it to run, then run this again."
            )
        elif _STORE.search(text):
            message += (
                ". It runs, but its store (etcd) does not answer in time: "
                "`kubectl get --raw '/readyz?verbose'` says what fails."
            )
        return Unreachable(
            message,
            reason=reason,
            maybe_done=status != 429,
            webhook=down[1] if down else "",
            status=status,
            retry_after=_retry_after(headers),
        )
    if status < 400:
        return ConfigError(
            f"host: {method} {path.partition('?')[0]} was redirected to {headers.get('Location', 'elsewhere')}; "
            "give the address of the API server itself.",
            status=status,
        )
    return KubeError(f"{method} {path.partition('?')[0]}: {text} (HTTP {status})", status=status)
