# SPDX-License-Identifier: GPL-3.0-or-later
"""A stand-in for NVIDIA's NGC: nvcr.io, api.ngc.nvidia.com and authn.nvidia.com in one HTTPS server.

It judges keys as NGC does and hands out tokens that a registry with ``auth: token`` accepts (issuer and service below,
``rootcertbundle`` = the signing certificate). ``/v2/`` is passed on to that registry, so that the faults of nvcr.io
itself can be rehearsed too: 451 at a manifest, 429, 503, slow blobs.

Faults live in a small JSON file, read again at every request: they survive a restart, and setting one needs no
connection.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import contextlib
import dataclasses
import fcntl
import hashlib
import http.client
import json
import re
import select
import signal
import socket
import ssl
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jwt
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

ISSUER = "rehearsal"
SERVICE = "registry"
USERNAME = "$oauthtoken"
TOKEN_SECONDS = 900
CHUNK = 1 << 18

_TAIL = "0123456789abcdefghijklmnopqrstuvwxyz"
#: kind of key -> the key itself. ``publisher`` alone may push; the rehearsal fills its registry with it. ``service``
#: and ``legacy`` are good ones, too. A legacy key is base64 of 26 letters or digits and a UUID.
KEYS = {
    kind: f"nvapi-rehearsal-{kind}-{_TAIL}"
    for kind in ("valid", "second", "service", "expired", "unentitled", "denied", "blocked", "publisher")
} | {"legacy": base64.b64encode(b"rehearsal0of0a0legacy0key0:00000000-0000-4000-8000-000000000000").decode()}

#: what a fault can be set on. A fault on a wider name holds for everything below it that has none of its own.
TARGETS = {
    "token": "/proxy_auth, where a key becomes a registry token",
    "ping": "GET /v2/ of the registry",
    "manifest": "image manifests (what 'docker pull' asks for first)",
    "blob": "image layers and configurations",
    "tags": "the tag list of a repository",
    "caller-info": "/v3/keys/get-caller-info",
    "org": "/v2/org",
    "catalog": "the search for containers",
    "authn": "/token?service=ngc",
    "files": "the file list of a model",
    "download": "the files of a model",
    "registry": "all of nvcr.io: token, ping, manifest, blob, tags",
    "api": "all of api.ngc.nvidia.com and authn.nvidia.com: caller-info, org, catalog, authn, files, download",
    "all": "everything",
}
_WIDER = {
    **dict.fromkeys(("token", "ping", "manifest", "blob", "tags"), "registry"),
    **dict.fromkeys(("caller-info", "org", "catalog", "authn", "files", "download"), "api"),
}


# --- the state file ---------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Fault:
    """What one target does instead of its work; several fields may be combined.

    status: HTTP status to answer, such as 429 or 503. retry_after: seconds for the Retry-After header of that answer.
    delay: seconds to wait first. hang: take the request and never answer. rate: bytes per second of the answer's body.
    cut: end the connection in the middle of the answer's body. redirect: send the client to this URL. html: answer with
    a web page, as the portal of a hotel does. refuse_tls: on ``all``, end each connection before its TLS handshake; on
    anything narrower, answer that request with bytes that are no TLS.
    count: this many requests are hit, then the fault is gone; None means until it is cleared.
    """

    status: int | None = None
    retry_after: int | None = None
    delay: float = 0
    hang: bool = False
    rate: int | None = None
    cut: bool = False
    redirect: str | None = None
    html: bool = False
    refuse_tls: bool = False
    count: int | None = None


@dataclass
class State:
    """What the stand-in is told. model_bytes: size of every model. download_rate: bytes per second, 0 = unlimited.

    public: repositories (``nim/meta/llama3-8b-instruct``) whose image and model need no key.
    keys: more keys, each with its kind (a name of KEYS).
    nim: how NIM containers that start from now on fail, as NIM_STANDIN_FAIL says it; empty = they don't.
    """

    faults: dict[str, Fault] = field(default_factory=dict)
    model_bytes: int = 4 << 20
    download_rate: int = 0
    public: list[str] = field(default_factory=list)
    keys: dict[str, str] = field(default_factory=dict)
    nim: str = ""

    def fault(self, target: str) -> tuple[str, Fault] | None:
        """The name and the fault that hit a request to this target; the narrowest name wins."""
        for name in (target, _WIDER.get(target, ""), "all"):
            if name in self.faults:
                return name, self.faults[name]
        return None

    def is_public(self, repository: str) -> bool:
        """As on nvcr.io: NIMs ask for a key, what a GPU node runs (nvidia/k8s-device-plugin) does not."""
        return repository in self.public or not repository.startswith("nim/")

    def kind(self, key: str) -> str | None:
        """The kind of this key; None when NGC never issued it."""
        known = {value: kind for kind, value in KEYS.items()} | self.keys
        return known.get(key)


def _decode(text: str) -> State:
    data = json.loads(text) if text.strip() else {}
    data["faults"] = {name: Fault(**fault) for name, fault in data.get("faults", {}).items()}
    return State(**data)


def load(path: Path) -> State:
    """The state in this file; the defaults when there is none."""
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            return _decode(file.read())
    except FileNotFoundError:
        return State()


@contextlib.contextmanager
def editing(path: Path) -> Iterator[State]:
    """Change the state under a lock: ``with editing(path) as state: state.public.append(...)``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        state = _decode(file.read())
        yield state
        file.seek(0)
        file.truncate()
        json.dump(dataclasses.asdict(state), file, indent=1)


def set_fault(path: Path, target: str, fault: Fault) -> None:
    """Set a fault on a name of TARGETS. Raises ValueError for another name."""
    if target not in TARGETS:
        raise ValueError(f"no such target: {target!r}; there are {', '.join(TARGETS)}")
    with editing(path) as state:
        state.faults[target] = fault


def clear(path: Path, target: str | None = None) -> None:
    """Remove the fault of one target (of TARGETS, or ``nim``), or all faults."""
    with editing(path) as state:
        if target in (None, "nim"):
            state.nim = ""
        state.faults = {name: fault for name, fault in state.faults.items() if target not in (None, name)}


def take(path: Path, name: str) -> bool:
    """Use up one of a counted fault; False when others were faster."""
    with editing(path) as state:
        fault = state.faults.get(name)
        if not fault or fault.count is None:
            return bool(fault)
        if fault.count <= 1:
            del state.faults[name]
        else:
            state.faults[name] = dataclasses.replace(fault, count=fault.count - 1)
        return fault.count > 0


# --- keys and tokens --------------------------------------------------------------------------------------------------
class Signer:
    """Signs the tokens that the registry accepts and knows its own again."""

    def __init__(self, key: Path, certificate: Path) -> None:
        chain = x509.load_pem_x509_certificates(certificate.read_bytes())
        private, public = load_pem_private_key(key.read_bytes(), None), chain[0].public_key()
        assert isinstance(private, EllipticCurvePrivateKey)
        assert isinstance(public, EllipticCurvePublicKey)
        self._key, self._public = private, public
        self._x5c = [base64.b64encode(one.public_bytes(Encoding.DER)).decode() for one in chain]

    def token(self, subject: str, audience: str, access: list[dict[str, Any]]) -> str:
        now = int(time.time())
        claims = {
            "iss": ISSUER,
            "sub": subject,
            "aud": audience,
            "iat": now,
            "nbf": now,
            "exp": now + TOKEN_SECONDS,
            "access": access,
        }
        return str(jwt.encode(claims, self._key, "ES256", {"x5c": self._x5c}))

    def subject(self, token: str) -> str | None:
        """Whom this token was given to; None when it is not ours or too old."""
        try:
            claims = jwt.decode(token, self._public, ["ES256"], {"verify_aud": False})
        except jwt.InvalidTokenError:
            return None
        return str(claims["sub"])


class Refusal(Exception):
    """NGC says no."""

    def __init__(
        self, status: int, code: str, message: str, headers: dict[str, str] | None = None, page: str = ""
    ) -> None:
        """``page``: HTML to answer with in place of JSON."""
        super().__init__(message)
        self.status, self.code, self.message, self.headers, self.page = status, code, message, headers or {}, page


def _entitled(state: State, kind: str | None, anonymous: bool, repository: str) -> None:
    """Raise Refusal unless this caller may have this repository's image or model."""
    if anonymous:
        if not state.is_public(repository):
            raise Refusal(401, "UNAUTHORIZED", "authentication required")
        return
    if kind is None or kind == "expired":
        raise Refusal(401, "UNAUTHORIZED", "authentication required")
    if state.is_public(repository):
        return
    if kind == "unentitled":
        raise Refusal(402, "PAYMENT_REQUIRED", "Payment Required")
    if kind == "denied":
        raise Refusal(403, "DENIED", "Access Denied")


def model_files(model: str, version: str, size: int) -> list[dict[str, Any]]:
    """The files of a model, `size` bytes in all; every file is the zero byte repeated."""
    small = {"config.json": 654, "generation_config.json": 187, "tokenizer.json": 9085, "tokenizer_config.json": 50977}
    half = max(size - sum(small.values()), 2) // 2
    sizes = small | {f"model-{part:05d}-of-00002.safetensors": half for part in (1, 2)}
    return [
        {
            "path": path,
            "sizeInBytes": length,
            "etag": hashlib.md5(f"{model}:{version}:{path}:{length}".encode(), usedforsecurity=False).hexdigest(),
        }
        for path, length in sizes.items()
    ]


# --- the server -------------------------------------------------------------------------------------------------------
_ROUTES = [
    (re.compile(pattern), target)
    for pattern, target in (
        (r"/proxy_auth", "token"),
        (r"/v3/keys/get-caller-info", "caller-info"),
        (r"/token", "authn"),
        (r"/v2/org", "org"),
        (r"/v2/search/catalog/resources/CONTAINER", "catalog"),
        (r"/v2/org/(?P<repo>[^/]+/team/[^/]+/models/[^/]+)/(?P<version>[^/]+)/files", "files"),
        (r"/v2/org/(?P<repo>[^/]+/team/[^/]+/models/[^/]+)/(?P<version>[^/]+)/files/(?P<file>.+)", "download"),
        (r"/v2/", "ping"),
        (r"/v2/(?P<repo>.+)/manifests/[^/]+", "manifest"),
        (r"/v2/(?P<repo>.+)/blobs/.+", "blob"),
        (r"/v2/(?P<repo>.+)/tags/list", "tags"),
    )
]
_PORTAL = "<html><head><title>Welcome</title></head><body>Sign in to use this network.</body></html>"
_PROXIED = ("ping", "manifest", "blob", "tags")
_HOP = ("connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "proxy-connection", "expect")


@dataclass(frozen=True)
class Site:
    """What every request needs. registry: host and port of the registry behind /v2/."""

    control: Path
    signer: Signer
    registry: str


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "ngc-standin"
    timeout = 120
    disable_nagle_algorithm = True

    site: Site
    _backend: http.client.HTTPConnection | None = None
    _status = 0
    _who = "-"
    _cut, _rate = False, 0

    def _handle(self) -> None:
        begun = time.monotonic()
        self._status, self._who, self._cut, self._rate = 0, "-", False, 0
        url = urlsplit(self.path)
        try:
            self._route(url.path, parse_qs(url.query))
        except Refusal as refusal:
            # an upload's body may still be on its way
            self.close_connection = self.close_connection or self.command in ("PUT", "PATCH")
            errors = [{"code": refusal.code, "message": refusal.message}]
            self._answer(refusal.status, refusal.page or {"errors": errors}, refusal.headers)
        except (ConnectionError, TimeoutError, ssl.SSLError):
            self.close_connection = True
        except (http.client.HTTPException, OSError) as error:
            self._drop_backend()
            self.close_connection = True
            if not self._status:
                self._answer(502, {"errors": [{"code": "BAD_GATEWAY", "message": f"registry: {error}"}]})
        # no query and no header: neither a key nor a token can get into the log
        print(
            time.strftime("%H:%M:%S"),
            *(self.client_address[0], self.command, url.path, self._status or "dropped", f"key={self._who}"),
            f"{1000 * (time.monotonic() - begun):.0f}ms",
            flush=True,
        )

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _handle

    def _route(self, path: str, query: dict[str, list[str]]) -> None:
        if path == "/healthz":
            return self._answer(200, {"status": "ready"})
        if path == "/standin/nim":
            return self._answer(200, {"fail": load(self.site.control).nim})
        target, parts = next(
            ((target, match.groupdict()) for route, target in _ROUTES if (match := route.fullmatch(path))),
            ("registry" if path.startswith("/v2/") else "all", {}),
        )
        proxied = target in _PROXIED or target == "registry"
        body = b"" if proxied else self._body()
        state = load(self.site.control)
        self._misbehave(state, target)
        if proxied:
            if target == "manifest" and self._bearer(state) == "blocked" and not state.is_public(parts["repo"]):
                raise Refusal(451, "UNAVAILABLE_FOR_LEGAL_REASONS", "Unavailable For Legal Reasons")
            return self._forward()
        if target == "token":
            return self._proxy_auth(state, query)
        if target == "caller-info":
            return self._caller_info(state, body)
        if target == "authn":
            return self._authn(state)
        if target == "org":
            return self._org(state)
        if target == "catalog":
            return self._catalog(query)
        if target in ("files", "download"):
            return self._model(state, self._rate or state.download_rate, parts)
        raise Refusal(404, "NOT_FOUND", "no such page")

    # --- faults
    def _misbehave(self, state: State, target: str) -> None:
        """Do what the fault of this target says; ``_cut`` and ``_rate`` are for whoever writes the answer's body."""
        found = state.fault(target)
        if not found or self._is_publisher(state):  # the rehearsal's own pushes are no part of the play
            return
        name, fault = found
        if fault.count is not None and not take(self.site.control, name):
            return
        time.sleep(fault.delay)
        while fault.hang:
            # the client's own time limit, or somebody who clears the fault, ends this
            if select.select([self.connection], [], [], 0.2)[0] or not load(self.site.control).fault(target):
                raise ConnectionAbortedError
        if fault.refuse_tls:
            socket.socket.sendall(self.connection, b"no TLS here\n")  # past the TLS layer
            raise ConnectionAbortedError
        self._cut, self._rate = fault.cut, fault.rate or 0
        status = fault.status or (307 if fault.redirect else 200 if fault.html else 0)
        if status:
            headers = {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
            headers |= {"Location": fault.redirect} if fault.redirect else {}
            text = http.client.responses.get(status, "fault")
            raise Refusal(status, "FAULT", text, headers, _PORTAL if fault.html else "")

    # --- NGC
    def _basic(self) -> tuple[str, str] | None:
        scheme, _, value = (self.headers.get("Authorization") or "").partition(" ")
        if scheme.lower() != "basic":
            return None
        try:
            user, _, password = base64.b64decode(value, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return "", ""
        return user, password

    def _bearer(self, state: State) -> str | None:
        """The kind of key behind a Bearer (a key, or a token of ours) or ApiKey header."""
        scheme, _, value = (self.headers.get("Authorization") or "").partition(" ")
        kind = None
        if scheme.lower() in ("bearer", "apikey"):
            kind = state.kind(value) or self.site.signer.subject(value)
            self._who = kind or "unknown"
        return kind

    def _raw_legacy(self, state: State) -> bool:
        """A legacy key stands where only newer keys and tokens may: it has to be made a token first."""
        scheme, _, value = (self.headers.get("Authorization") or "").partition(" ")
        return scheme.lower() == "bearer" and state.kind(value) == "legacy"

    def _is_publisher(self, state: State) -> bool:
        basic = self._basic()
        return (state.kind(basic[1]) if basic else self._bearer(state)) == "publisher"

    def _proxy_auth(self, state: State, query: dict[str, list[str]]) -> None:
        if self.command not in ("GET", "HEAD"):
            # containerd and docker then fall back to the GET that nvcr.io knows
            raise Refusal(405, "UNSUPPORTED", "Method Not Allowed")
        basic = self._basic()
        kind = state.kind(basic[1]) if basic and basic[0] == USERNAME else None
        self._who = (kind or "unknown") if basic else "-"
        if basic and kind in (None, "expired"):
            raise Refusal(401, "UNAUTHORIZED", "authentication required")
        access = []
        for scope in " ".join(query.get("scope", [])).split():
            type_, _, rest = scope.partition(":")
            name, _, actions = rest.rpartition(":")
            if type_ != "repository":
                continue
            _entitled(state, kind, not basic, name)
            allowed = [action for action in actions.split(",") if action == "pull" or kind == "publisher"]
            access.append({"type": type_, "name": name, "actions": allowed})
        if not basic and not access:
            raise Refusal(401, "UNAUTHORIZED", "authentication required")
        token = self.site.signer.token(kind or "anonymous", SERVICE, access)
        self._answer(200, {"token": token, "expires_in": TOKEN_SECONDS})

    def _caller_info(self, state: State, body: bytes) -> None:
        if self.command != "POST":
            raise Refusal(405, "UNSUPPORTED", "Method Not Allowed")
        kind = self._bearer(state)
        sent = parse_qs(body.decode("latin-1")).get("credentials", [""])[0]
        if kind is None or kind == "expired" or state.kind(sent) != kind or self._raw_legacy(state):
            raise Refusal(401, "UNAUTHORIZED", "Invalid credentials")
        roles = ["REGISTRY_READ"] + ["NVIDIA_AI_ENTERPRISE_VIEWER"] * (kind != "unentitled")
        user = {"email": "user@example.com", "roles": [{"org": {"name": "rehearsal"}, "orgRoles": roles}]}
        self._answer(
            200,
            {
                "requestStatus": {"statusCode": "SUCCESS"},
                "type": "SERVICE_KEY" if kind == "service" else "PERSONAL_KEY",
                "orgName": "rehearsal",
                "products": ["artifact-catalog"] if kind != "denied" else ["nvidia-cloud-functions"],
                "user": None if kind == "service" else user,
            },
        )

    def _authn(self, state: State) -> None:
        basic = self._basic()
        kind = state.kind(basic[1]) if basic else self._bearer(state)
        self._who = kind or "unknown"
        if kind is None or kind == "expired":
            raise Refusal(401, "UNAUTHORIZED", "Invalid credentials")
        token = self.site.signer.token(kind, "ngc", [])
        self._answer(200, {"token": token, "expires_in": TOKEN_SECONDS})

    def _org(self, state: State) -> None:
        kind = self._bearer(state)
        if kind is None or kind == "expired" or self._raw_legacy(state):
            raise Refusal(401, "UNAUTHORIZED", "Invalid credentials")
        self._answer(
            200, {"requestStatus": {"statusCode": "SUCCESS"}, "organizations": [{"name": "rehearsal", "type": "CLOUD"}]}
        )

    def _catalog(self, query: dict[str, list[str]]) -> None:
        """What the registry holds of one organisation; anybody may ask."""
        try:
            asked = json.loads(query.get("q", ["{}"])[0])
            organisation, page = str(asked["query"]).removeprefix("orgName:"), int(asked.get("page", 0))
            size = min(max(int(asked.get("pageSize", 25)), 1), 1000)
        except (ValueError, KeyError, TypeError):
            raise Refusal(400, "INVALID_REQUEST", "Invalid query") from None
        access = [{"type": "registry", "name": "catalog", "actions": ["*"]}]
        token = self.site.signer.token("catalog", SERVICE, access)
        backend = http.client.HTTPConnection(self.site.registry, timeout=10)
        try:
            backend.request("GET", "/v2/_catalog?n=1000", headers={"Authorization": f"Bearer {token}"})
            held = json.loads(backend.getresponse().read())["repositories"]
        finally:
            backend.close()
        names = [name for name in held if name.startswith(f"{organisation}/")]
        resources = [{"resourceId": name, "resourceType": "CONTAINER", "attributes": []} for name in names]
        shown = resources[page * size : (page + 1) * size]
        self._answer(
            200,
            {
                "resultTotal": len(names),
                "resultPageTotal": -(-len(names) // size),
                "params": {"page": page, "pageSize": size},
                "results": [{"groupValue": "CONTAINER", "totalCount": len(names), "resources": shown}],
            },
        )

    def _model(self, state: State, rate: int, parts: dict[str, str]) -> None:
        org, _, team, _, model = parts["repo"].split("/")
        repository = f"{org}/{team}/{model}"
        kind = self._bearer(state)
        _entitled(state, kind, not self.headers.get("Authorization"), repository)
        if kind == "blocked" and not state.is_public(repository):
            raise Refusal(451, "UNAVAILABLE_FOR_LEGAL_REASONS", "Unavailable For Legal Reasons")
        files = model_files(repository, parts["version"], state.model_bytes)
        if "file" not in parts:
            self._answer(200, {"requestStatus": {"statusCode": "SUCCESS"}, "modelFiles": files})
            return
        size = next((file["sizeInBytes"] for file in files if file["path"] == parts["file"]), None)
        if size is None:
            raise Refusal(404, "NOT_FOUND", "no such file")
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = min(int(asked[1]), size) if asked else 0
        self._begin(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Length", str(size - start))
        self.end_headers()
        if self.command != "HEAD":
            zeros = bytes(CHUNK)
            blocks = (zeros[: min(CHUNK, size - at)] for at in range(start, size, CHUNK))
            for block in _throttled(blocks, rate):
                self.wfile.write(block)

    # --- the registry behind /v2/
    def _forward(self) -> None:
        headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP}
        headers["X-Forwarded-Proto"] = "https"
        body: Iterable[bytes] | None = None
        if "chunked" in (self.headers.get("Transfer-Encoding") or "").lower():
            headers["Transfer-Encoding"] = "chunked"
            body = self._chunks()
        elif int(self.headers.get("Content-Length") or 0):
            body = self._pieces(int(self.headers["Content-Length"]))
        self._bearer(load(self.site.control))
        response = self._ask(headers, body)
        self._begin(response.status)
        for name, value in response.getheaders():
            if name.lower() not in _HOP:
                self.send_header(name, value)
        empty = self.command == "HEAD" or response.status in (204, 304)
        chunked = response.length is None and not empty
        if chunked:
            self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        if self._cut:
            self.wfile.write(response.read((response.length or 0) // 2))
            raise ConnectionAbortedError("as it was told")
        for block in _throttled(iter(lambda: response.read1(CHUNK), b""), self._rate):
            self.wfile.write(b"%x\r\n%b\r\n" % (len(block), block) if chunked else block)
        response.close()  # else the connection can't be used again
        if chunked:
            self.wfile.write(b"0\r\n\r\n")

    def _ask(self, headers: dict[str, str], body: Iterable[bytes] | None) -> http.client.HTTPResponse:
        """Send to the registry. A kept connection may have died meanwhile: then once more, if nothing was consumed."""
        for fresh in (self._backend is None, True):
            if fresh:
                self._drop_backend()
                self._backend = http.client.HTTPConnection(self.site.registry, timeout=120)
            assert self._backend
            try:
                self._backend.request(self.command, self.path, body, headers, encode_chunked=body is not None)
                return self._backend.getresponse()
            except (ConnectionError, http.client.RemoteDisconnected) as error:
                if fresh or body is not None:
                    raise http.client.HTTPException(str(error)) from error
        raise AssertionError

    def _drop_backend(self) -> None:
        if self._backend:
            self._backend.close()
            self._backend = None

    def _pieces(self, length: int) -> Iterator[bytes]:
        while length:
            block = self.rfile.read1(min(CHUNK, length))
            if not block:
                raise ConnectionResetError("the client went away")
            length -= len(block)
            yield block

    def _chunks(self) -> Iterator[bytes]:
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            yield from self._pieces(size)
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass

    # --- plumbing
    def _body(self) -> bytes:
        return self.rfile.read(min(int(self.headers.get("Content-Length") or 0), 1 << 20))

    def _begin(self, status: int) -> None:
        self._status = status
        self.send_response(status)
        if self.close_connection:
            self.send_header("Connection", "close")

    def _answer(self, status: int, value: object, headers: dict[str, str] | None = None) -> None:
        """JSON, or the page where the value is a text."""
        body = value.encode() if isinstance(value, str) else json.dumps(value).encode()
        self._begin(status)
        for name, text in (headers or {}).items():
            self.send_header(name, text)
        self.send_header("Content-Type", "text/html" if isinstance(value, str) else "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            for block in _throttled([body[: len(body) // 2] if self._cut else body], self._rate):
                self.wfile.write(block)
        self.close_connection = self.close_connection or self._cut

    def finish(self) -> None:
        self._drop_backend()
        with contextlib.suppress(OSError):
            super().finish()

    def log_message(self, format: str, *args: Any) -> None:
        """The one line of _handle is the log."""


def _throttled(blocks: Iterable[bytes], rate: int) -> Iterator[bytes]:
    """The same blocks, no faster than `rate` bytes per second (0 = as they come)."""
    begun, sent = time.monotonic(), 0
    for block in blocks:
        step = max(rate // 10, 1) if rate else len(block)
        for at in range(0, len(block), step):
            piece = block[at : at + step]
            yield piece
            sent += len(piece)
            if rate:
                time.sleep(max(0.0, begun + sent / rate - time.monotonic()))


class Server(ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True

    def __init__(self, address: tuple[str, int], site: Site, tls: ssl.SSLContext) -> None:
        self._tls, self._control = tls, site.control
        super().__init__(address, type("Bound", (Handler,), {"site": site}))

    def server_bind(self) -> None:
        # the pod network's address comes and goes with its bridge
        self.socket.setsockopt(socket.IPPROTO_IP, getattr(socket, "IP_FREEBIND", 15), 1)
        super().server_bind()

    def finish_request(self, request: Any, client_address: Any) -> None:
        # the handshake happens in the request's own thread: a silent client holds nobody up
        request.settimeout(30)
        try:
            if self._refuses():
                return
            with self._tls.wrap_socket(request, server_side=True) as connection:
                super().finish_request(connection, client_address)
        except (OSError, ValueError):
            pass

    def _refuses(self) -> bool:
        """Before the handshake nobody knows what will be asked, so only a fault on everything counts."""
        fault = load(self._control).faults.get("all", Fault())
        return fault.refuse_tls and (fault.count is None or take(self._control, "all"))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m rehearsal.standins.ngc", description=__doc__)
    parser.add_argument("--listen", action="append", required=True, metavar="HOST:PORT", help="may be repeated")
    parser.add_argument("--registry", required=True, metavar="HOST:PORT", help="the registry behind /v2/, plain HTTP")
    parser.add_argument("--control", required=True, type=Path, help="the JSON state file; need not exist")
    for name in ("cert", "key", "signing-cert", "signing-key"):
        parser.add_argument(f"--{name}", required=True, type=Path, help="PEM")
    options = parser.parse_args(argv)

    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(options.cert, options.key)
    site = Site(options.control, Signer(options.signing_key, options.signing_cert), options.registry)
    for address in options.listen:
        host, _, port = address.rpartition(":")
        server = Server((host, int(port)), site, tls)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        print(f"listening on {host}:{server.server_port}", flush=True)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    return 0


if __name__ == "__main__":
    sys.exit(main())
