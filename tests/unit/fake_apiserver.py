# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: Contributors to gpuops.nim
"""An API server that misbehaves when told to.

It exists only to inject what a healthy server doesn't do; what a healthy one does is tested on a real one. It speaks
real HTTP on a loopback port and knows just enough of objects, server-side apply and watches to be worth breaking.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import json
import re
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from ansible_collections.gpuops.nim.plugins.module_utils._kube.client import PLURALS

KINDS = {plural: kind for kind, plural in PLURALS.items()}
Leaf = tuple[str, ...]
Object = dict[str, Any]


@dataclass
class Fault:
    """What to do with the next ``times`` requests that match, in place of the right thing.

    ``status`` answers with it; ``reset`` drops the connection, before the answer ("early": before the request is
    obeyed, "late": after) or closes it in the middle of the answer's body ("body"); ``hang`` is silence, in seconds.
    """

    method: str = ""
    path: str = ""
    times: int = 1
    watch: bool | None = None
    status: int | None = None
    message: str = "injected"
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    reset: str = ""
    hang: float = 0

    def fits(self, request: Request) -> bool:
        return (
            self.times > 0
            and self.method in ("", request.method)
            and bool(re.search(self.path, request.path))
            and self.watch in (None, request.is_watch)
        )


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    query: dict[str, str]
    headers: Any
    body: bytes
    port: int  # the client's: tells connections apart

    @property
    def is_watch(self) -> bool:
        return self.query.get("watch") == "true"

    @property
    def writes(self) -> bool:
        return self.method != "GET" and "dryRun" not in self.query


class Refusal(Exception):
    def __init__(self, status: int, message: str, reason: str = "", **details: Any) -> None:
        super().__init__(message)
        self.status = status
        self.document = status_document(status, message, reason, **details)


def status_document(code: int, message: str, reason: str = "", **details: Any) -> Object:
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "code": code,
        "message": message,
        "reason": reason,
        "details": details,
    }


class FakeApiServer:
    """``with FakeApiServer() as api``; ``api.put`` and ``api.remove`` are what others do to the cluster."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.tls = tls
        self.tokens: set[str] | None = None  # None: everybody may come in
        self.served = {"v1", "apps/v1", "serving.kserve.io/v1beta1"}
        self.mutate: Callable[[Object], None] = lambda obj: None  # a mutating webhook, if you like
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self.version = 1000
        self._port = 0
        self._lock = threading.Condition(threading.RLock())
        self._objects: dict[tuple[str, str, str], Object] = {}  # by (collection kind, namespace, name)
        self._owners: dict[tuple[str, str, str], dict[tuple[str, str], set[Leaf]]] = {}
        self._planned: dict[tuple[str, str, str], dict[tuple[str, str], set[Leaf]]] = {}  # by the last dry run
        self._history: list[tuple[int, str, Object]] = []
        self._floor = 0
        self._freezes = 0
        self._uids = itertools.count(1)
        self._server: ThreadingHTTPServer | None = None
        self._connections: set[socket.socket] = set()
        self.put({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}})

    # what tests do

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self._port}"

    def __enter__(self) -> FakeApiServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        fake = self

        class Handler(_Handler):
            api = fake

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 64

            def handle_error(self, *_: object) -> None:
                pass

        self._server = Server(("127.0.0.1", self._port), Handler)
        if self.tls:
            self._server.socket = self.tls.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self._port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        """The process is gone: nothing listens, open connections are cut."""
        server, self._server = self._server, None
        if server:
            server.shutdown()
            server.server_close()
        self.cut()

    def cut(self) -> None:
        """Resets every open connection."""
        with self._lock:
            connections, self._connections = self._connections, set()
        for connection in connections:
            _reset(connection)

    def freeze(self) -> None:
        """Open watches stay open and say nothing more, as when a firewall has forgotten their connections."""
        with self._lock:
            self._freezes += 1

    def forget(self) -> None:
        """Compaction: a watch from an earlier resourceVersion is answered 410."""
        with self._lock:
            self._floor, self._history = self.version, []

    def fault(self, **what: Any) -> Fault:
        self.faults.append(Fault(**what))
        return self.faults[-1]

    def put(self, obj: Object, manager: str = "somebody") -> Object:
        """Creates or replaces an object as another manager would; fields that change become that manager's."""
        with self._lock:
            key = _key(obj)
            old = self._objects.get(key)
            owners = self._owners.setdefault(key, {})
            before, after = _leaves(old or {}), _leaves(obj)
            for leaves in owners.values():
                leaves -= {leaf for leaf in leaves if before.get(leaf) != after.get(leaf)}
            mine = {leaf for leaf in after if before.get(leaf) != after[leaf]}
            owners.setdefault((manager, "Update"), set()).update(mine)
            return self._store(key, copy.deepcopy(obj), old)

    def edit(self, kind: str, namespace: str, name: str, leaf: str, value: Any, manager: str = "somebody") -> Object:
        """Changes one field, written as a dotted path."""
        with self._lock:
            obj = copy.deepcopy(self._objects[kind, namespace, name])
            _set(obj, tuple(leaf.split(".")), value)
            return self.put(obj, manager)

    def get(self, kind: str, namespace: str, name: str) -> Object | None:
        return self._objects.get((kind, namespace, name))

    def remove(self, kind: str, namespace: str, name: str) -> None:
        with self._lock:
            obj = self._objects.pop((kind, namespace, name))
            self._owners.pop((kind, namespace, name), None)
            self.version += 1
            obj = {**obj, "metadata": {**obj["metadata"], "resourceVersion": str(self.version)}}
            self._history.append((self.version, "DELETED", obj))
            self._lock.notify_all()

    def seen(self, method: str = "", path: str = "") -> list[Request]:
        return [r for r in self.requests if method in ("", r.method) and re.search(path, r.path)]

    @property
    def writes(self) -> list[Request]:
        return [r for r in self.requests if r.writes]

    # what the server does

    def obey(self, request: Request) -> tuple[int, Object]:
        if request.path == "/version":
            return 200, {"gitVersion": "v1.36.3"}
        kind, api_version, namespace, name = self._where(request.path)
        if request.method == "GET":
            return 200, self._read(request, kind, api_version, namespace, name)
        obj = json.loads(request.body or b"{}")
        if request.method == "PATCH":
            merges = request.headers["Content-Type"] == "application/merge-patch+json"
            return (self._merge if merges else self._apply)(request, (kind, namespace, name), obj)
        if request.method == "POST":
            name = obj["metadata"]["name"]
            self._needs(namespace)
            with self._lock:
                if (kind, namespace, name) in self._objects:
                    raise Refusal(409, f'{PLURALS[kind]} "{name}" already exists', "AlreadyExists", name=name)
                return 201, self.put(obj, request.query.get("fieldManager", "somebody"))
        return 200, self._delete(request, (kind, namespace, name), obj)

    def _where(self, path: str) -> tuple[str, str, str, str]:
        parts = [unquote(part) for part in path.strip("/").split("/")]
        api_version, rest = ("v1", parts[2:]) if parts[0] == "api" else ("/".join(parts[1:3]), parts[3:])
        if api_version not in self.served or not rest:
            raise Refusal(404, "")
        namespace = ""
        if rest[0] == "namespaces" and len(rest) > 2:
            namespace, rest = rest[1], rest[2:]
        if rest[0] not in KINDS:
            raise Refusal(404, "the server could not find the requested resource", "NotFound")
        return KINDS[rest[0]], api_version, namespace, rest[1] if len(rest) > 1 else ""

    def _needs(self, namespace: str) -> None:
        if namespace and ("Namespace", "", namespace) not in self._objects:
            message = f'namespaces "{namespace}" not found'
            raise Refusal(404, message, "NotFound", name=namespace, kind="namespaces")

    def _missing(self, kind: str, name: str) -> Refusal:
        return Refusal(404, f'{PLURALS[kind]} "{name}" not found', "NotFound", name=name, kind=PLURALS[kind])

    def _read(self, request: Request, kind: str, api_version: str, namespace: str, name: str) -> Object:
        with self._lock:
            if name:
                if (kind, namespace, name) not in self._objects:
                    raise self._missing(kind, name)
                return self._objects[kind, namespace, name]
            items = [
                {k: v for k, v in obj.items() if k not in ("apiVersion", "kind")}  # as a real list
                for key, obj in sorted(self._objects.items())
                if key[0] == kind and namespace in ("", key[1]) and _selected(obj, request.query)
            ]
            start = int(request.query.get("continue") or 0)
            end = start + int(request.query.get("limit") or len(items) or 1)
            more = {"continue": str(end)} if end < len(items) else {}
            return {
                "kind": f"{kind}List",
                "apiVersion": api_version,
                "metadata": {"resourceVersion": str(self.version), **more},
                "items": items[start:end],
            }

    def _apply(self, request: Request, key: tuple[str, str, str], obj: Object) -> tuple[int, Object]:
        query, manager = request.query, (request.query["fieldManager"], "Apply")
        kind, namespace, name = key
        self._needs(namespace)
        with self._lock:
            old = self._objects.get(key)
            _refuse_another(key, old, obj.get("metadata") or {})
            new: Object = copy.deepcopy(old or {"apiVersion": obj["apiVersion"], "kind": kind, "metadata": {}})
            new["metadata"].update({"name": name, **({"namespace": namespace} if namespace else {})})
            owners = copy.deepcopy(self._owners.get(key, {}))
            have, want = _leaves(new), _leaves(obj)
            rivals = [
                (other, leaf)
                for leaf, value in want.items()
                for other, leaves in owners.items()
                if other != manager and leaf in leaves and have.get(leaf) != value
            ]
            if rivals and query.get("force") != "true":
                causes = [
                    {
                        "reason": "FieldManagerConflict",
                        "message": f'conflict with "{other[0]}" using {obj["apiVersion"]}',
                        "field": "." + ".".join(leaf),
                    }
                    for other, leaf in rivals
                ]
                raise Refusal(409, f"Apply failed with {len(causes)} conflicts", "Conflict", causes=causes)
            for other, leaf in rivals:
                owners[other].discard(leaf)
            dropped = owners.get(manager, set()) - set(want)
            owners[manager] = set(want)
            for leaf in dropped:
                if not any(leaf in leaves for leaves in owners.values()):
                    _drop(new, leaf)
            for leaf, value in want.items():
                _set(new, leaf, value)
            self.mutate(new)
            if query.get("dryRun") == "All":
                new["metadata"].setdefault("uid", "dry-run")
                new["metadata"]["managedFields"] = _managed(owners)
                self._planned[key] = owners
            elif old is None or _leaves(new) != _leaves(old) or owners != self._owners.get(key):
                self._owners[key] = owners
                new = self._store(key, new, old)
            return (200 if old else 201), new

    def _merge(self, request: Request, key: tuple[str, str, str], changes: Object) -> tuple[int, Object]:
        with self._lock:
            old = self._objects.get(key)
            if old is None:
                raise self._missing(key[0], key[2])
            meta = changes.pop("metadata", None) or {}
            _refuse_another(key, old, meta)
            managed = meta.pop("managedFields", None)
            new = copy.deepcopy(old)
            _merge(new, {**changes, "metadata": {k: v for k, v in meta.items() if k not in _IDENTITY}})
            if request.query.get("dryRun") == "All":
                return 200, new
            if managed is not None:
                names = {(entry["manager"], entry["operation"]) for entry in managed}
                owners = self._planned.get(key) or self._owners[key]  # managedFields here don't say which fields
                self._owners[key] = {name: owners.get(name, set()) for name in names}
                return 200, self._store(key, new, old)
            return 200, self.put(new, request.query["fieldManager"])

    def _delete(self, request: Request, key: tuple[str, str, str], options: Object) -> Object:
        with self._lock:
            obj = self._objects.get(key)
            if obj is None:
                raise self._missing(key[0], key[2])
            uid = (options.get("preconditions") or {}).get("uid")
            if uid not in (None, obj["metadata"]["uid"]):
                raise Refusal(409, f"Precondition failed: UID in precondition: {uid}", "Conflict", name=key[2])
            # a server that was sent options in a body does not look at the query
            if not (options or request.query).get("dryRun"):
                if obj["metadata"].get("finalizers"):
                    self.put({**obj, "metadata": {**obj["metadata"], "deletionTimestamp": "2026-01-01T00:00:00Z"}})
                else:
                    self.remove(*key)
            return obj

    def _store(self, key: tuple[str, str, str], obj: Object, old: Object | None) -> Object:
        self.version += 1
        meta = obj["metadata"]
        was = old["metadata"] if old else {}
        meta["uid"] = was.get("uid") or f"uid-{next(self._uids)}"
        meta["creationTimestamp"] = was.get("creationTimestamp") or "2026-01-01T00:00:00Z"
        meta["generation"] = was.get("generation", 0) + (not old or old.get("spec") != obj.get("spec"))
        meta["resourceVersion"] = str(self.version)
        meta["managedFields"] = _managed(self._owners.get(key, {}))
        self._objects[key] = obj
        self._history.append((self.version, "MODIFIED" if old else "ADDED", obj))
        self._lock.notify_all()
        return obj

    def events(self, request: Request) -> Any:
        """Yields what a watch says until its time is up; None while there is nothing to say."""
        kind, api_version, namespace, _name = self._where(request.path)
        since, born = int(request.query.get("resourceVersion") or 0), self._freezes
        end = time.monotonic() + float(request.query.get("timeoutSeconds") or 60)
        if since < self._floor:
            gone = status_document(410, f"too old resource version: {since} ({self._floor})", "Expired")
            yield {"type": "ERROR", "object": gone}
            return
        while True:
            with self._lock:
                frozen = born != self._freezes
                news = [event for event in self._history if event[0] > since and not frozen]
                if not news:
                    self._lock.wait(0.02)
            for since, type_, obj in news:  # noqa: B007
                inside = namespace in ("", obj["metadata"].get("namespace", ""))
                if obj["kind"] == kind and inside and _selected(obj, request.query):
                    yield {"type": type_, "object": obj}
            if time.monotonic() > end and not frozen:
                mark = {"kind": kind, "apiVersion": api_version, "metadata": {"resourceVersion": str(self.version)}}
                yield {"type": "BOOKMARK", "object": mark}
                return
            yield None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    api: FakeApiServer

    def setup(self) -> None:
        super().setup()
        self.api._connections.add(self.connection)

    def finish(self) -> None:
        with contextlib.suppress(OSError):
            super().finish()
        self.api._connections.discard(self.connection)

    def log_message(self, *_: object) -> None:
        pass

    def _serve(self) -> None:
        url = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        request = Request(
            self.command, url.path, dict(parse_qsl(url.query)), self.headers, body, self.client_address[1]
        )
        self.api.requests.append(request)
        fault = next((f for f in self.api.faults if f.fits(request)), None)
        if fault:
            fault.times -= 1
            time.sleep(fault.hang)
            if fault.reset == "early":
                return _reset(self.connection)
            if fault.status:
                injected = json.dumps(status_document(fault.status, fault.message)).encode()
                return self._answer(fault.status, injected if fault.body is None else fault.body, fault.headers)
        token = (self.headers.get("Authorization") or "").rpartition(" ")[2]
        if self.api.tokens is not None and token not in self.api.tokens:
            return self._answer(401, json.dumps(status_document(401, "Unauthorized", "Unauthorized")).encode())
        try:
            if request.is_watch:
                return self._watch(request)
            status, obj = self.api.obey(request)
            answer = json.dumps(obj).encode()
        except Refusal as refusal:
            status = refusal.status
            answer = json.dumps(refusal.document).encode() if str(refusal) else b"404 page not found\n"
        if fault and fault.reset == "late":
            return _reset(self.connection)
        headers = fault.headers if fault else {}
        return self._answer(status, answer, headers, cut=bool(fault and fault.reset == "body"))

    do_GET = do_POST = do_PATCH = do_DELETE = do_PUT = _serve

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None, cut: bool = False) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if cut else body)
        self.close_connection = self.close_connection or cut

    def _watch(self, request: Request) -> None:
        events = self.api.events(request)
        first = next(events)
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        with contextlib.suppress(OSError):
            for event in itertools.chain([first], events):
                if self.connection not in self.api._connections:
                    return
                if event:
                    line = json.dumps(event).encode() + b"\n"
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
            self.wfile.write(b"0\r\n\r\n")


def _reset(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.shutdown(socket.SHUT_RD)
    with contextlib.suppress(OSError):
        connection.close()


# objects and their fields

_IDENTITY = {"name", "namespace", "uid", "resourceVersion", "generation", "creationTimestamp", "managedFields"}


def _key(obj: Object) -> tuple[str, str, str]:
    return obj["kind"], obj["metadata"].get("namespace", ""), obj["metadata"]["name"]


def _leaves(obj: Object, at: Leaf = ()) -> dict[Leaf, Any]:
    found: dict[Leaf, Any] = {}
    for key, value in obj.items():
        path = (*at, key)
        if (not at and key in ("apiVersion", "kind", "status")) or (at == ("metadata",) and key in _IDENTITY):
            continue
        if isinstance(value, dict) and value:
            found.update(_leaves(value, path))
        else:
            found[path] = value
    return found


def _refuse_another(key: tuple[str, str, str], old: Object | None, pinned: Object) -> None:
    """When a write is for another object of that name, or for another version of it."""
    about = f'Operation cannot be fulfilled on {PLURALS[key[0]]} "{key[2]}"'
    if "uid" in pinned and (old is None or old["metadata"]["uid"] != pinned["uid"]):
        raise Refusal(409, f"{about}: uid mismatch", "Conflict")
    if old and pinned.get("resourceVersion") not in (None, old["metadata"]["resourceVersion"]):
        raise Refusal(409, f"{about}: the object has been modified", "Conflict", name=key[2])


def _merge(obj: Object, changes: Object) -> None:
    for key, value in changes.items():
        if value is None:
            obj.pop(key, None)
        elif isinstance(value, dict) and isinstance(obj.get(key), dict):
            _merge(obj[key], value)
        else:
            obj[key] = copy.deepcopy(value)


def _set(obj: Object, leaf: Leaf, value: Any) -> None:
    for key in leaf[:-1]:
        obj = obj.setdefault(key, {})
    obj[leaf[-1]] = copy.deepcopy(value)


def _drop(obj: Object, leaf: Leaf) -> None:
    if len(leaf) == 1:
        obj.pop(leaf[0], None)
    elif leaf[0] in obj:
        _drop(obj[leaf[0]], leaf[1:])
        if not obj[leaf[0]]:
            del obj[leaf[0]]


def _managed(owners: dict[tuple[str, str], set[Leaf]]) -> list[Object]:
    return [{"manager": name, "operation": op} for (name, op), leaves in owners.items() if leaves]


def _selected(obj: Object, query: dict[str, str]) -> bool:
    labels = obj["metadata"].get("labels") or {}
    for part in filter(None, (query.get("labelSelector") or "").split(",")):
        name, equals, value = part.partition("=")
        if name not in labels or (equals and labels[name] != value):
            return False
    only = re.search(r"metadata\.name=([^,]+)", query.get("fieldSelector") or "")
    return not only or obj["metadata"]["name"] == only[1]
