# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""A thin client of the Kubernetes API: fixed paths for the kinds we know, typed errors, retries that end.

Only a kind that isn't in the table costs a question to the server: what its plural is.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import random
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Callable
from urllib.parse import quote, urlencode

from .errors import (
    ConfigError,
    Conflict,
    KindMissing,
    KubeError,
    NotFound,
    Unauthorized,
    Unreachable,
    from_response,
    is_status,
)

FIELD_MANAGER = "gpuops.nim"
Texts = list[str]  # Client has a method called list
Objects = list[dict[str, Any]]

CONNECT_TIMEOUT = 10.0
READ_TIMEOUT = 65.0  # the API server itself gives up after 60 s
PATIENCE = 30.0  # an API server restarts in less
FIRST_PATIENCE = 10.0  # before the first answer a wrong address is likelier than a restart
PAGE = 500
CONNECTIONS = 32  # that are kept for the next request; urllib3 writes a warning to stderr for each above
_METADATA_ONLY = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"

PLURALS = {
    "ClusterRole": "clusterroles",
    "ClusterRoleBinding": "clusterrolebindings",
    "ClusterServingRuntime": "clusterservingruntimes",
    "ConfigMap": "configmaps",
    "ControllerRevision": "controllerrevisions",
    "CustomResourceDefinition": "customresourcedefinitions",
    "DaemonSet": "daemonsets",
    "Deployment": "deployments",
    "EndpointSlice": "endpointslices",
    "Event": "events",
    "HorizontalPodAutoscaler": "horizontalpodautoscalers",
    "InferenceService": "inferenceservices",
    "Ingress": "ingresses",
    "IngressClass": "ingressclasses",
    "Job": "jobs",
    "LimitRange": "limitranges",
    "NIMService": "nimservices",
    "Namespace": "namespaces",
    "Node": "nodes",
    "PersistentVolume": "persistentvolumes",
    "PersistentVolumeClaim": "persistentvolumeclaims",
    "Pod": "pods",
    "PodMonitor": "podmonitors",
    "PriorityClass": "priorityclasses",
    "ReplicaSet": "replicasets",
    "ResourceQuota": "resourcequotas",
    "Role": "roles",
    "RoleBinding": "rolebindings",
    "RuntimeClass": "runtimeclasses",
    "Secret": "secrets",
    "SelfSubjectAccessReview": "selfsubjectaccessreviews",
    "SelfSubjectReview": "selfsubjectreviews",
    "Service": "services",
    "ServiceAccount": "serviceaccounts",
    "ServiceMonitor": "servicemonitors",
    "ServingRuntime": "servingruntimes",
    "StatefulSet": "statefulsets",
    "StorageClass": "storageclasses",
}
CLUSTER_SCOPED = frozenset(
    (
        "ClusterRole",
        "ClusterRoleBinding",
        "ClusterServingRuntime",
        "CustomResourceDefinition",
        "IngressClass",
        "Namespace",
        "Node",
        "PersistentVolume",
        "PriorityClass",
        "RuntimeClass",
        "SelfSubjectAccessReview",
        "SelfSubjectReview",
        "StorageClass",
    )
)


def api_path(api_version: str, kind: str, namespace: str | None = None, name: str | None = None) -> str:
    """The path of an object, or of the collection without ``name`` (of all namespaces without ``namespace``)."""
    if kind not in PLURALS:
        raise ConfigError(f"Kind {kind} isn't one that this collection knows: its plural isn't in the client's table.")
    path = _group_path(api_version)
    if kind not in CLUSTER_SCOPED:
        if namespace:
            path += f"/namespaces/{quote(namespace, safe='')}"
        elif name:
            raise ValueError(f"{kind} {name} needs a namespace")
    path += f"/{PLURALS[kind]}"
    return f"{path}/{quote(name, safe='')}" if name else path


def _group_path(api_version: str) -> str:
    return f"/apis/{api_version}" if "/" in api_version else f"/api/{api_version}"


@dataclass(frozen=True, repr=False)
class Connection:
    """A logged-in way to one API server; made by auth.py, made again when its credentials are refused."""

    host: str  # URL without trailing slash
    source: str  # where host and credentials came from, for messages
    pool: Any  # urllib3.PoolManager
    headers: Callable[[], Any]  # urllib3's HTTPHeaderDict, made anew for every request: authorization, impersonation
    expired: str  # a sentence if the client certificate has expired, else ""


@dataclass(frozen=True)
class Listing:
    items: list[dict[str, Any]]  # apiVersion and kind filled in
    resource_version: str


class Backoff:
    """Pauses between attempts: 0.2 s doubling to 5 s, jittered, never shorter than the server's Retry-After."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self._delay = 0.2

    def pause(self, retry_after: float | None = None) -> float:
        delay = self._delay * random.uniform(1, 1.3)
        self._delay = min(self._delay * 2, 5 / 1.3)
        return max(delay, retry_after or 0)


class Response:
    """An answer: whole (``body``, ``json()``) or as it comes (``lines()``)."""

    def __init__(self, raw: Any, connection: Connection, path: str) -> None:
        self._raw = raw
        self._connection = connection
        self._path = path
        self._body: bytes | None = None
        self._socket = _socket_of(raw)
        self.status: int = raw.status
        self.headers: Mapping[str, str] = raw.headers

    @property
    def body(self) -> bytes:
        if self._body is None:
            with _transport(self._connection):
                self._body = self._raw.read(decode_content=True)
                self._raw.release_conn()
        return self._body

    def json(self) -> Any:
        try:
            with _without_collector():
                return json.loads(self.body)
        except ValueError:
            kind = self.headers.get("Content-Type", "no content type")
            raise ConfigError(
                f"host: {self._connection.host}{self._path.partition('?')[0]} answered with {kind} in place of JSON; "
                f"give the address of the API server itself ({self._connection.source})."
            ) from None

    @property
    def warnings(self) -> list[str]:
        """The texts of the server's Warning headers."""
        import re

        found = re.findall(r'299 \S+ "((?:[^"\\]|\\.)*)"', self.headers.get("Warning") or "")
        return [re.sub(r"\\(.)", r"\1", text) for text in found]

    def lines(self) -> Iterator[bytes]:
        """Lines without their end, each as soon as it is there. Raises Unreachable when the stream breaks off."""
        rest = b""
        with _transport(self._connection):
            # chunks come as they are sent; without chunking only single bytes can be had without waiting for more
            for chunk in self._raw.stream(None if self._raw.chunked else 1, decode_content=True):
                *whole, rest = (rest + chunk).split(b"\n")
                yield from (line.rstrip(b"\r") for line in whole)
        if rest:
            yield rest

    def abort(self) -> None:
        """Ends a stream that another thread is reading: it sees the end at once."""
        if self._socket is not None:
            with contextlib.suppress(OSError, ValueError):
                self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Drops the connection if the answer hasn't been read to its end."""
        self._raw.close()


@contextlib.contextmanager
def _without_collector() -> Iterator[None]:
    """Parsing a long list makes many objects and no cycle: the collector would go through them again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:  # else another thread is parsing, and enables it
            gc.enable()


def _socket_of(raw: Any) -> Any:
    found = getattr(getattr(raw, "connection", None), "sock", None)
    if found is None:  # "Connection: close": http.client has given the socket to the response
        fp = getattr(getattr(raw, "_fp", None), "fp", None)
        found = getattr(getattr(fp, "raw", None), "_sock", None)
    return found


class Client:
    """One API server. ``load`` opens a Connection, and again after a 401 or a fork. Raises KubeError and its kin.

    ``patience``: seconds that a server, or a webhook of its, which does not answer is asked again; 30 (10 before its
    first answer) if not given.
    """

    def __init__(self, load: Callable[[], Connection], patience: float | None = None) -> None:
        self._load = load
        self._patience = patience
        self._kinds: dict[str, dict[str, tuple[str, bool]]] = {}  # what the server said of kinds that we don't know
        self._renew()

    def __repr__(self) -> str:
        return f"<Client {self._connection.host}>"

    @property
    def host(self) -> str:
        """Its address."""
        return self._connection.host

    def _renew(self) -> None:
        self._connection = self._load()
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._answered = False
        self._webhooks: dict[str, float] = {}  # until when a webhook that is down is waited for, by all requests

    def _login_again(self, refused: Connection) -> None:
        with self._lock:
            if self._connection is refused:  # else another thread has done it
                self._connection = self._load()

    # objects

    def get(self, api_version: str, kind: str, name: str, namespace: str | None = None) -> dict[str, Any] | None:
        """The object, or None when there is none. Raises KindMissing when the API isn't served."""
        try:
            return self._object("GET", api_version, kind, namespace, name).json()  # type: ignore[no-any-return]
        except NotFound:
            return None

    def list(
        self,
        api_version: str,
        kind: str,
        namespace: str | None = None,
        *,
        labels: str = "",
        fields: str = "",
        metadata_only: bool = False,
        keep: Callable[[dict[str, Any]], dict[str, Any] | None] | None = None,
        retry: bool = True,
        timeout: float | None = None,
    ) -> Listing:
        """All objects that the selectors match, of one namespace or of all, read in pages of 500.

        ``keep`` returns what is to be kept of an object, if anything; a page is gone before the next is read.
        """
        query = {k: v for k, v in (("labelSelector", labels), ("fieldSelector", fields)) if v}
        headers = {"Accept": _METADATA_ONLY} if metadata_only else {}
        items: Objects = []
        page = {"limit": str(PAGE)}
        while True:
            try:
                answer = self._object(
                    "GET",
                    api_version,
                    kind,
                    namespace,
                    query={**query, **page},
                    headers=headers,
                    retry=retry,
                    timeout=timeout,
                ).json()
            except KubeError as error:
                if error.status == 410 and "continue" in page:  # too slow for the server's memory: all at once
                    items, page = [], {}
                    continue
                raise
            for item in answer.get("items") or ():
                kept = keep(item) if keep else item
                if kept is not None:
                    items.append({**kept, "apiVersion": api_version, "kind": kind})
            if not answer["metadata"].get("continue"):
                return Listing(items, answer["metadata"]["resourceVersion"])
            page = {"limit": str(PAGE), "continue": answer["metadata"]["continue"]}

    def apply(
        self, obj: dict[str, Any], *, dry_run: bool = False, force: bool = False, warnings: Texts | None = None
    ) -> dict[str, Any]:
        """Server-side apply; the server's warnings are added to ``warnings``. ``force`` takes fields from others.

        A resourceVersion in ``obj`` makes the server refuse (Conflict) when the object has another by now.
        """
        meta = obj["metadata"]
        query = {"fieldManager": FIELD_MANAGER, "fieldValidation": "Strict"}
        if dry_run:
            query["dryRun"] = "All"
        if force:
            query["force"] = "true"
        backoff = Backoff()
        for last in (False, False, True):
            try:
                response = self._object(
                    "PATCH",
                    obj["apiVersion"],
                    obj["kind"],
                    meta.get("namespace"),
                    meta["name"],
                    query=query,
                    body=obj,
                    headers={"Content-Type": "application/apply-patch+yaml"},
                )
                break
            except Conflict as error:
                if last or error.managers or "resourceVersion" in meta:
                    raise
                time.sleep(backoff.pause())
        if warnings is not None:
            warnings += response.warnings
        return response.json()  # type: ignore[no-any-return]

    def patch(
        self, obj: dict[str, Any], changes: dict[str, Any], *, dry_run: bool = False, manager: str = FIELD_MANAGER
    ) -> dict[str, Any]:
        """JSON merge patch of an object that was read before; None removes a field. Conflict as with ``apply``."""
        query = {"fieldManager": manager, "fieldValidation": "Strict", **({"dryRun": "All"} if dry_run else {})}
        meta = obj["metadata"]
        return self._object(  # type: ignore[no-any-return]
            "PATCH",
            obj["apiVersion"],
            obj["kind"],
            meta.get("namespace"),
            meta["name"],
            query=query,
            body=changes,
            headers={"Content-Type": "application/merge-patch+json"},
        ).json()

    def create(self, obj: dict[str, Any], *, dry_run: bool = False) -> dict[str, Any]:
        """POST; for objects that are questions (SelfSubjectAccessReview) or must be new. Conflict when it exists."""
        query = {"fieldManager": FIELD_MANAGER, **({"dryRun": "All"} if dry_run else {})}
        namespace = obj.get("metadata", {}).get("namespace")
        return self._object(  # type: ignore[no-any-return]
            "POST", obj["apiVersion"], obj["kind"], namespace, query=query, body=obj
        ).json()

    def delete(
        self,
        api_version: str,
        kind: str,
        name: str,
        namespace: str | None = None,
        *,
        dry_run: bool = False,
        propagation: str = "Foreground",
        uid: str | None = None,
    ) -> bool:
        """False when it wasn't there. With ``uid`` only that very object; Conflict when it is another by now."""
        body: dict[str, Any] = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": propagation}
        if uid:
            body["preconditions"] = {"uid": uid}
        if dry_run:
            body["dryRun"] = ["All"]  # where there is a body the server ignores the query, which is for its audit log
        query = {"dryRun": "All"} if dry_run else {}
        try:
            self._object("DELETE", api_version, kind, namespace, name, query=query, body=body)
        except NotFound:
            return False
        return True

    def server_version(self) -> str:
        """Such as "v1.36.3"."""
        return str(self.request("GET", "/version").json()["gitVersion"])

    def _object(
        self, method: str, api_version: str, kind: str, namespace: str | None, name: str | None = None, **rest: Any
    ) -> Response:
        try:
            return self.request(method, self.path(api_version, kind, namespace, name), **rest)
        except KindMissing as error:
            raise KindMissing(api_version, kind, status=error.status) from None

    # kinds

    def path(self, api_version: str, kind: str, namespace: str | None = None, name: str | None = None) -> str:
        """As `api_path`, for any kind that the server knows. Raises KindMissing."""
        if kind in PLURALS:
            return api_path(api_version, kind, namespace, name)
        plural, namespaced = self._served(api_version, kind)
        path = _group_path(api_version)
        if namespaced and namespace:
            path += f"/namespaces/{quote(namespace, safe='')}"
        elif namespaced and name:
            raise ValueError(f"{kind} {name} needs a namespace")
        return f"{path}/{plural}/{quote(name, safe='')}" if name else f"{path}/{plural}"

    def namespaced(self, api_version: str, kind: str) -> bool:
        """Whether objects of this kind live in a namespace. Raises KindMissing."""
        return kind not in CLUSTER_SCOPED if kind in PLURALS else self._served(api_version, kind)[1]

    def serves(self, api_version: str, kind: str) -> bool:
        """Whether the server knows the kind now; it is asked, whatever it said before."""
        self._kinds.pop(api_version, None)
        try:
            self._served(api_version, kind)
        except KindMissing:
            return False
        return True

    def _served(self, api_version: str, kind: str) -> tuple[str, bool]:
        """Plural and whether namespaced."""
        if kind not in self._kinds.get(api_version, ()):
            try:
                found = self.request("GET", _group_path(api_version)).json()["resources"]
            except (KindMissing, NotFound):
                found = []
            self._kinds[api_version] = {
                each["kind"]: (each["name"], each["namespaced"]) for each in found if "/" not in each["name"]
            }
        try:
            return self._kinds[api_version][kind]
        except KeyError:
            raise KindMissing(api_version, kind, status=404) from None

    # requests

    def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        stream: bool = False,
        timeout: float | None = None,
        retry: bool = True,
        raise_for: bool = True,
    ) -> Response:
        """One request. ``body`` is bytes, or anything else as JSON; ``timeout`` is for each read, in seconds.

        408, 429, 5xx and transport trouble are tried again for a bounded time, for POST only when nothing can have
        happened; a 401 loads the credentials once again. With ``raise_for=False`` any answer is returned, and only
        transport trouble and refused credentials raise. With ``stream`` the body is left to be read by ``lines()``.
        """
        if query:
            path = f"{path}?{urlencode(query)}"
        send = _Request(method, path, body, headers or {}, stream, timeout or READ_TIMEOUT, raise_for)
        backoff, deadline = Backoff(), 0.0
        while True:
            try:
                return self._attempt(send)
            except Unreachable as error:
                if not retry or (method == "POST" and error.maybe_done):
                    raise
                now, pause = time.monotonic(), backoff.pause(error.retry_after)
                deadline = deadline or now + self._give_up_after
                if error.webhook:
                    deadline = self._webhooks.setdefault(error.webhook, deadline)
                if now + pause > deadline:
                    raise
                time.sleep(pause)

    @property
    def _give_up_after(self) -> float:
        if self._patience is not None:
            return self._patience
        return PATIENCE if self._answered else FIRST_PATIENCE

    def _attempt(self, send: _Request) -> Response:
        if self._pid != os.getpid():  # sockets aren't shared with the parent process
            self._renew()
        used = self._connection
        try:
            return self._exchange(used, send)
        except Unauthorized:
            self._login_again(used)
        used = self._connection
        try:
            return self._exchange(used, send)
        except Unauthorized as error:
            advice = used.expired or "Log in again, or give valid credentials (kubeconfig, or api_key)."
            raise Unauthorized(f"{error.message} They came from {used.source}. {advice}", status=401) from None

    def _exchange(self, connection: Connection, send: _Request) -> Response:
        response = send.over(connection)
        self._answered = True
        if response.status == 401 and is_status(response.body):
            error = from_response(401, response.body, method=send.method, path=send.path, headers=response.headers)
            raise error
        if send.raise_for and response.status >= 300:
            raise from_response(
                response.status, response.body, method=send.method, path=send.path, headers=response.headers
            )
        if not send.stream:
            response.body  # noqa: B018  read here, so that a broken answer is tried again
        return response


@dataclass(frozen=True, repr=False)
class _Request:
    method: str
    path: str
    body: Any
    headers: Mapping[str, str]
    stream: bool
    timeout: float
    raise_for: bool

    def over(self, connection: Connection) -> Response:
        import urllib3

        headers = connection.headers()
        headers["Accept"] = "application/json"
        headers["User-Agent"] = FIELD_MANAGER
        data = self.body
        if data is not None:
            headers["Content-Type"] = "application/json"
            if not isinstance(data, bytes):
                data = json.dumps(data).encode()
        for name, value in self.headers.items():
            headers[name] = value
        with _transport(connection):
            raw = connection.pool.request(
                self.method,
                connection.host + self.path,
                body=data,
                headers=headers,
                timeout=urllib3.Timeout(connect=CONNECT_TIMEOUT, read=self.timeout),
                retries=False,
                redirect=False,
                preload_content=False,
                enforce_content_length=True,
            )
        return Response(raw, connection, self.path)


@contextlib.contextmanager
def _transport(connection: Connection) -> Iterator[None]:
    """Turns what urllib3 and below raise into Unreachable, or ConfigError where trying again can't help."""
    import urllib3

    try:
        yield
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise _explain(error, connection) from None


def _explain(error: BaseException, connection: Connection) -> KubeError:
    import ssl

    import urllib3

    chain = list(_causes(error))
    server = f"{connection.host} ({connection.source})"
    for cause in chain:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return ConfigError(_untrusted(cause.verify_code, cause.verify_message, server))
        if type(cause).__name__ == "CertificateError":  # urllib3 1.26 compares the names itself
            return ConfigError(_untrusted(_WRONG_NAME[0], str(cause), server))
        if isinstance(cause, ssl.SSLError) and cause.reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST"):
            return ConfigError(f"host: {server} doesn't speak TLS; begin the address with http:// or correct the port.")
        if isinstance(cause, ssl.SSLError) and "ALERT" in (cause.reason or "") and "CERTIFICATE" in cause.reason:
            return ConfigError(
                f"client_cert: {server} refuses the client certificate ({cause.reason}). {connection.expired}".strip()
            )
        if isinstance(cause, (urllib3.exceptions.LocationParseError, urllib3.exceptions.URLSchemeUnknown)):
            return ConfigError(f"host: {connection.host} is no URL; write it as https://name:port.")
    if any(isinstance(cause, urllib3.exceptions.ProxyError) for cause in chain):
        server += " through the proxy"
    reason = _reason(chain)
    unsent = (urllib3.exceptions.NewConnectionError, urllib3.exceptions.ConnectTimeoutError)
    if any(isinstance(cause, unsent) for cause in chain):
        return Unreachable(
            f"The API server {server} can't be reached: {reason}. Check the address, and that this machine "
            "may go there (firewall, VPN, option proxy).",
            reason=reason,
            maybe_done=False,
        )
    # a server that doesn't like the certificate may just hang up
    return Unreachable(f"The API server {server} broke off: {reason}. {connection.expired}".strip(), reason=reason)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        error = waiting.pop(0)
        if isinstance(error, BaseException) and id(error) not in seen:
            seen.add(id(error))
            yield error
            waiting += [error.__cause__, error.__context__, getattr(error, "reason", None)]
            waiting += [arg for arg in error.args if isinstance(arg, BaseException)]


def _reason(chain: list[BaseException]) -> str:
    import ssl

    import urllib3

    for cause in chain:
        if isinstance(cause, socket.gaierror):
            return f"its name isn't known ({cause.strerror})"
        if isinstance(cause, OSError) and cause.strerror and not isinstance(cause, ssl.SSLEOFError):
            return cause.strerror.lower()
    if any(isinstance(cause, (urllib3.exceptions.TimeoutError, socket.timeout)) for cause in chain):
        return "no answer in time"
    return "the connection was closed"


_EXPIRED, _WRONG_NAME = 10, (62, 64)  # X509_V_ERR_*


def _untrusted(code: int, text: str, server: str) -> str:
    if code == _EXPIRED:
        return (
            f"The certificate of {server} has expired ({text}). Renew it on the control plane, "
            "or set this machine's clock."
        )
    if code in _WRONG_NAME:
        return f"host: the certificate of {server} isn't made out to that address ({text}). Use one that it names."
    return (
        f"ca_cert: the certificate of {server} can't be verified ({text}). Give the cluster's own CA as ca_cert or in "
        "the kubeconfig; validate_certs: false is for tests only."
    )
