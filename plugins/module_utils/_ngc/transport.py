# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""Questions over HTTPS. Either there is an answer that means something, or a Trouble that says who is at fault."""

from __future__ import annotations

import base64
import email.utils
import errno
import json
import os
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Optional
from urllib.parse import quote, quote_plus, urlsplit

from .verdict import Evidence, Judgement

CONNECTIONS = 50  # at a time; with fewer, the images of a whole site take several rounds
MAX_BODY = 4 << 20  # bytes; a manifest has some thousand, a full page of the catalog some hundred thousand
MAX_SAID = 240  # characters
RETRIES = 2
LOST = 2  # this many questions in a row without any answer, and a host is not waited for again
_AGAIN = (429, 500, 502, 503, 504)
_AGENT = "gpuops.nim"
_TOKENS = re.compile(r"nvapi-[\w.-]+|\beyJ[\w.-]{16,}|(?i:\b(?:basic|bearer|apikey)\s+[\w+/=.-]{8,})")


class BadOption(Exception):
    """An option of the transport can't be used; ``option`` is its name and the text says what would be right."""

    def __init__(self, option: str, text: str) -> None:
        super().__init__(text)
        self.option = option


class Trouble(Exception):
    """Nothing can be said about key or image: there was no usable answer. Never means that a key is bad."""

    def __init__(self, judgement: Judgement, evidence: Evidence) -> None:
        super().__init__(judgement.cause)
        self.judgement = judgement
        self.evidence = evidence


@dataclass(frozen=True)
class Way:
    """How hosts are reached.

    endpoints: host to the URL where it is asked in place of ``https://host``. ca_cert: PEM file with CAs trusted beside
    the system's. proxy: URL; without it the environment's variables count. timeout: seconds for a question, its
    repetitions included.
    """

    endpoints: Mapping[str, str] = field(default_factory=dict)
    ca_cert: Optional[str] = None
    proxy: Optional[str] = None
    timeout: float = 10.0


@dataclass(frozen=True)
class Reply:
    """An answer. Names of ``headers`` are lower case. ``data`` is the body's JSON, None where it holds none."""

    status: int
    headers: Mapping[str, str]
    data: Any
    text: str
    evidence: Evidence
    url: str  # the one that answered, without its query
    redirected: bool = False


class Web:
    """Asks, with one kept Session for each address. May be used by many threads. ``secrets`` are masked in evidence."""

    def __init__(self, way: Way, secrets: Sequence[str] = ()) -> None:
        """:raises BadOption: the CA file can't be used."""
        self._way = way
        self._hidden = sorted({form for secret in secrets if secret for form in _forms(secret)}, key=len, reverse=True)
        self._context = _tls(way.ca_cert)
        self._sessions: dict[str, Any] = {}
        self._lost: dict[str, int] = {}
        self._lock = threading.Lock()

    def close(self) -> None:
        for session in self._sessions.values():
            session.close()

    def base(self, host: str) -> str:
        """Where this host is asked, without a slash at the end."""
        return self._way.endpoints.get(host, f"https://{_ALIASES.get(host, host)}").rstrip("/")

    def ask(
        self,
        host: str,
        url: str,
        *,
        method: str = "GET",
        headers: Optional[Mapping[str, str]] = None,
        query: Sequence[tuple[str, str]] = (),
        form: Optional[Mapping[str, str]] = None,
        follow: bool = True,
    ) -> Reply:
        """One question to ``host``; ``url`` is a path of it, or the URL that it sent us to.

        429 and 5xx are asked again while the time lasts. Without ``follow`` a redirect is an answer like any other.

        :raises Trouble: no answer, an answer in mid-air, 429, 5xx, or something that no registry says.
        """
        url = self.base(host) + url if url.startswith("/") else url
        where = f"{method} {_plain(url)}"
        auth = (headers or {}).get("Authorization", "").partition(" ")[0].lower()
        if self._lost.get(host, 0) >= LOST:
            raise Trouble(_given_up(host), Evidence(where, None, "not asked again", _now(), auth))
        deadline = time.monotonic() + self._way.timeout
        for attempt in range(RETRIES + 1):
            try:
                reply = self._send(method, url, where, deadline, headers or {}, query, form, follow)
            except _Broken as broken:
                self._lost[host] = self._lost.get(host, 0) + 1
                raise Trouble(
                    broken.judgement, Evidence(where, broken.status, self._clean(broken.said), _now(), auth)
                ) from None
            self._lost.pop(host, None)
            if reply.status not in _AGAIN:
                break
            pause = _retry_after(reply.headers.get("retry-after"), 0.3 * 2**attempt)
            if attempt == RETRIES or time.monotonic() + pause > deadline - 0.1:
                raise Trouble(_busy(host, reply), reply.evidence)
            time.sleep(pause)
        if foreign := _foreign(host, reply):
            raise Trouble(foreign, reply.evidence)
        return reply

    def _send(
        self,
        method: str,
        url: str,
        where: str,
        deadline: float,
        headers: Mapping[str, str],
        query: Sequence[tuple[str, str]],
        form: Optional[Mapping[str, str]],
        follow: bool,
    ) -> Reply:
        import requests
        import urllib3

        left = max(deadline - time.monotonic(), 0.1)
        status = None
        try:
            with self._session(url).request(
                method,
                url,
                params=list(query),
                data=form,
                headers={"Accept-Encoding": "identity", **headers},
                timeout=left,
                stream=True,
                allow_redirects=follow,
            ) as response:
                status = response.status_code
                if urlsplit(url).scheme == "https" and urlsplit(response.url).scheme != "https":
                    raise _Broken(
                        Judgement(
                            "network",
                            f"{where} was redirected to {_plain(response.url)}, without TLS: a proxy or portal in the "
                            "way answers, not the registry (proxy).",
                            "Log in to the network's portal, or set registry_proxy.",
                        ),
                        status,
                        "redirected to plain HTTP",
                    )
                body = _read(response, deadline)
        except _Broken:
            raise
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            judgement = explain(error, where, self._way.timeout)
            raise _Broken(judgement, status, _last_words(error)) from None
        text = body.decode("utf-8", "replace")
        found = {name.lower(): value for name, value in response.headers.items()}
        try:
            data = json.loads(text)
        except ValueError:
            data = None
        said = response.reason or "" if response.ok else _message(data, text) or response.reason or ""
        auth = headers.get("Authorization", "").partition(" ")[0].lower()
        evidence = Evidence(where, status, self._clean(said), _now(), auth)
        return Reply(status, found, data, text, evidence, _plain(response.url), bool(response.history))

    def _session(self, url: str) -> Any:
        import requests

        parts = urlsplit(url)
        key = f"{parts.scheme}://{parts.netloc}"
        with self._lock:
            if key not in self._sessions:
                session = self._sessions[key] = requests.Session()
                # else a ~/.netrc adds logins, and REQUESTS_CA_BUNDLE takes the place of our CAs
                session.trust_env = False
                session.max_redirects = 5
                session.headers["User-Agent"] = _AGENT
                session.proxies.update(self._proxies(url))
                session.mount("https://", _adapter(self._context))
                session.mount("http://", _adapter(None))
            return self._sessions[key]

    def _proxies(self, url: str) -> dict[str, str]:
        from requests.utils import get_environ_proxies, should_bypass_proxies

        if not self._way.proxy:
            return dict(get_environ_proxies(url, None))
        if should_bypass_proxies(url, None):
            return {}
        return dict.fromkeys(("http", "https"), self._way.proxy)

    def _clean(self, text: str) -> str:
        for secret in self._hidden:
            text = text.replace(secret, "********")
        text = " ".join(_TOKENS.sub("********", text).split())
        return text if len(text) <= MAX_SAID else text[: MAX_SAID - 3] + "..."


_ALIASES = {"docker.io": "registry-1.docker.io"}


class _Broken(Exception):
    def __init__(self, judgement: Judgement, status: Optional[int], said: str) -> None:
        super().__init__(said)
        self.judgement, self.status, self.said = judgement, status, said


def _adapter(context: Optional[ssl.SSLContext]) -> Any:
    from requests.adapters import HTTPAdapter

    class Adapter(HTTPAdapter):
        """Trusts what the context trusts: `requests` has no other way to CAs beside the system's."""

        def init_poolmanager(self, *args: Any, **more: Any) -> Any:
            return super().init_poolmanager(*args, **more, ssl_context=context)

        def proxy_manager_for(self, proxy: str, **more: Any) -> Any:
            if proxy.startswith("https://"):
                more["proxy_ssl_context"] = context
            return super().proxy_manager_for(proxy, **more, ssl_context=context)

        # both would read the CAs again for every connection
        def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
            pass

        def build_connection_pool_key_attributes(self, request: Any, verify: Any, cert: Any = None) -> Any:
            where, _keys = super().build_connection_pool_key_attributes(request, verify, cert)
            return where, {"ssl_context": context} if context else {}

    return Adapter(pool_connections=4, pool_maxsize=CONNECTIONS)


def _tls(ca_cert: Optional[str]) -> ssl.SSLContext:
    """The system's CAs, those of REQUESTS_CA_BUNDLE and CURL_CA_BUNDLE, and the file's."""
    from requests.certs import where  # type: ignore[attr-defined]

    context = ssl.create_default_context()
    more = [os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE")]
    if not context.cert_store_stats()["x509_ca"]:  # a machine without any
        more.append(where())
    for path in more:
        if path and os.path.exists(path):
            context.load_verify_locations(**{"capath" if os.path.isdir(path) else "cafile": path})
    if ca_cert:
        try:
            context.load_verify_locations(ca_cert)
        except (OSError, ssl.SSLError) as error:
            why = "holds no certificate in PEM format" if isinstance(error, ssl.SSLError) else _last_words(error)
            raise BadOption("registry_ca_cert", f"{ca_cert}: {why}.") from None
    return context


def _read(response: Any, deadline: float) -> bytes:
    """The body, all of it. A server that sends a byte now and then is cut off at the deadline as a silent one is."""
    read = getattr(response.raw, "read1", None) or response.raw.read  # urllib3 1.26 has no read1
    body = bytearray()
    while chunk := read(1 << 14):
        body += chunk
        if time.monotonic() > deadline:
            raise TimeoutError("the answer did not end")
        if len(body) > MAX_BODY:
            raise ValueError("the answer is longer than any that a registry gives")
    length = response.headers.get("Content-Length", "")  # urllib3 1.26 takes what came for all of it
    if length.isdigit() and len(body) < int(length):
        raise ConnectionResetError(f"the answer broke off after {len(body)} of {length} bytes")
    return bytes(body)


# --- what trouble means


def explain(error: BaseException, where: str, timeout: float) -> Judgement:
    """Whose fault it is that there is no answer. ``where``: the method and URL; ``timeout``: seconds."""
    import requests
    import urllib3

    kinds = tuple(_chain(error))

    def any_of(*types: type) -> Optional[BaseException]:
        return next((one for one in kinds if isinstance(one, types)), None)

    host = urlsplit(where.partition(" ")[2]).netloc
    if any_of(requests.exceptions.ProxyError, urllib3.exceptions.ProxyError, requests.exceptions.InvalidProxyURL):
        return Judgement(
            "network",
            f"The proxy on the way to {host} does not let the question through (proxy): {_last_words(error)}.",
            "Check registry_proxy, or HTTPS_PROXY and NO_PROXY, and that the proxy allows this host.",
        )
    refused = any_of(ssl.SSLCertVerificationError)
    if refused:
        return Judgement(
            "network",
            f"The certificate of {host} is not trusted (TLS): {getattr(refused, 'verify_message', '') or refused}.",
            "If it was signed by a CA of your own, name its file with registry_ca_cert.",
        )
    if any_of(ssl.SSLError, requests.exceptions.SSLError, urllib3.exceptions.SSLError):
        return Judgement(
            "network",
            f"No TLS connection to {host} (TLS): {_last_words(error)}.",
            "See what stands between this machine and the registry: "
            f"openssl s_client -connect {host if ':' in host else host + ':443'}",
        )
    if any_of(socket.gaierror):
        return Judgement(
            "network",
            f"The name {host.partition(':')[0]} can't be resolved (DNS).",
            f"Check the name and this machine's DNS: getent hosts {host.partition(':')[0]}",
        )
    if any_of(ConnectionRefusedError):
        return Judgement("unavailable", f"Nothing listens at {host} (connection refused).", _LATER)
    for one in kinds:
        if isinstance(one, OSError) and one.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH):
            return Judgement(
                "network",
                f"There is no route to {host} (connection): {one.strerror}.",
                "Check this machine's network, or set registry_proxy.",
            )
    if any_of(requests.exceptions.ConnectTimeout, urllib3.exceptions.ConnectTimeoutError):
        return Judgement(
            "network",
            f"No connection to {host} within {timeout:g} s (connection): a firewall may drop it.",
            "Allow it, or set registry_proxy.",
        )
    if any_of(requests.exceptions.Timeout, urllib3.exceptions.TimeoutError, TimeoutError, socket.timeout):
        return Judgement("unavailable", f"{host} did not finish its answer within {timeout:g} s.", _LATER)
    broken = (requests.exceptions.ConnectionError, requests.exceptions.ChunkedEncodingError)
    if any_of(*broken, urllib3.exceptions.ProtocolError, OSError):
        return Judgement("unavailable", f"{host} broke its answer off: {_last_words(error)}.", _LATER)
    return Judgement("unknown", f"{host} can't be asked: {_last_words(error)}.", _LATER)


_LATER = "Try again later, and see https://status.ngc.nvidia.com if it lasts."


def _busy(host: str, reply: Reply) -> Judgement:
    if reply.status == 429:
        wait = reply.headers.get("retry-after")
        when = f" It asks for a pause of {wait} s." if wait and wait.isdigit() else ""
        return Judgement(
            "rate_limited", f"{host} takes no more questions from here for now (429).{when}", "Wait, and try again."
        )
    return Judgement("unavailable", f"{host} is out of order ({reply.status} {reply.evidence.said}).", _LATER)


def _given_up(host: str) -> Judgement:
    return Judgement("unavailable", f"{host} gave no answer to the questions before this one.", _LATER)


def _foreign(host: str, reply: Reply) -> Optional[Judgement]:
    """An answer that no registry gives: a page of a proxy or portal, a redirect that leads nowhere."""
    if reply.status == 407:
        return Judgement("network", "The proxy wants a login (proxy, 407).", "Give it in registry_proxy.")
    page = "html" in reply.headers.get("content-type", "") and reply.text.strip() != ""
    # nginx in front of a registry says what it means in a page of its own, titled with the status
    own = reply.status >= 400 and re.search(rf"<title>\s*{reply.status}\b", reply.text, re.I)
    if page and not own and reply.status != 401:
        return Judgement(
            "network",
            f"A web page came in place of an answer from {host} ({reply.status}): a proxy or portal is in the way "
            "(proxy).",
            "Log in to the network's portal, or have the proxy let this host through.",
        )
    if reply.status < 300 and reply.text and not isinstance(reply.data, (dict, list)):
        return Judgement("unavailable", f"{host} answered with something that is no JSON.", _LATER)
    return None


def _chain(error: Optional[BaseException]) -> Iterator[BaseException]:
    """The error and what it came from, which `requests` keeps in three places."""
    seen: set[int] = set()
    todo = [error]
    while todo:
        one = todo.pop(0)
        if isinstance(one, BaseException) and id(one) not in seen:
            seen.add(id(one))
            yield one
            todo += [getattr(one, "reason", None), *one.args, one.__cause__, one.__context__]


def _last_words(error: BaseException) -> str:
    """The innermost message, without the objects that urllib3 prints."""
    if isinstance(error, OSError) and error.strerror:
        return str(error.strerror)
    inner = [str(one) for one in _chain(error) if not any(isinstance(arg, BaseException) for arg in one.args)]
    text = inner[-1] if inner else str(error)
    return (
        re.sub(r"<[^>]+>:?\s*|\(_ssl\.c:\d+\)|\[Errno -?\d+\]\s*", "", text).strip().rstrip(".") or type(error).__name__
    )


def _message(data: Any, text: str) -> str:
    """What a registry, or NGC, says in an error; the page's words where it isn't JSON."""
    if isinstance(data, dict):
        errors = data.get("errors")
        first = errors[0] if isinstance(errors, list) and errors else {}
        if isinstance(first, dict) and first:
            return f"{first.get('code', '')}: {first.get('message', '')}".strip(": ")
        status = data.get("requestStatus")
        if isinstance(status, dict):
            return f"{status.get('statusCode', '')}: {status.get('statusDescription', '')}".strip(": ")
        for name in ("message", "details", "detail", "error", "title"):
            if isinstance(data.get(name), str):
                return str(data[name])
    return re.sub(r"<[^>]*>", " ", text[: 8 * MAX_SAID])


def _retry_after(value: Optional[str], otherwise: float) -> float:
    """Seconds to wait, from a header that holds seconds or a date."""
    if not value:
        return otherwise
    if value.strip().isdigit():
        return float(value)
    try:
        return max(email.utils.parsedate_to_datetime(value).timestamp() - time.time(), 0.0)
    except (TypeError, ValueError):
        return otherwise


def _plain(url: str) -> str:
    """The URL without user, query and fragment: in those there may be secrets."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _forms(secret: str) -> set[str]:
    """A secret as it may come back from a server: plain, quoted, in base64 alone or behind a user's name."""
    forms = {secret, quote(secret, safe=""), quote_plus(secret), base64.b64encode(secret.encode()).decode()}
    return {form for form in forms if len(form) >= 4}


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
