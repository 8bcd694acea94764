# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""The two ways to a model: through the ingress, as its users come, and through the API server's service proxy."""

from __future__ import annotations

import contextlib
import os
import socket
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Optional, Union
from urllib.parse import urlsplit

from ansible_collections.gpuops.nim.plugins.module_utils._kube.client import Client, Response
from ansible_collections.gpuops.nim.plugins.module_utils._kube.errors import (
    Forbidden,
    Unreachable,
    from_response,
    is_status,
)
from ansible_collections.gpuops.nim.plugins.module_utils._nim import extras, manifests, states
from ansible_collections.gpuops.nim.plugins.module_utils._ops import gateway
from ansible_collections.gpuops.nim.plugins.module_utils._ops.result import OpsError

Json = dict[str, Any]
Verify = Union[bool, str]  # or the file of the CA
CONNECT_TIMEOUT = 10.0


class NotYet(OpsError):
    """May pass: an ingress opens its TLS port, and takes up a host's certificate, a moment after it was told to."""


@dataclass(frozen=True)
class Reply:
    """An answer whose body is still on its way. Names of ``headers`` are lower case."""

    status: int
    headers: Mapping[str, str]
    chunks: Iterator[bytes]

    def read(self) -> bytes:
        return b"".join(self.chunks)

    def lines(self) -> Iterator[bytes]:
        """Each line as soon as it is there."""
        rest = b""
        for chunk in self.chunks:
            *whole, rest = (rest + chunk).split(b"\n")
            yield from whole
        if rest:
            yield rest


class Door(ABC):
    """``where`` is for messages. A door is closed after use."""

    via: str
    where: str
    host: Optional[str]
    name: str = "NAME"
    namespace: str = "NAMESPACE"

    @property
    def _pods(self) -> str:
        label = f"serving.kserve.io/inferenceservice={self.name}"
        return f"See `kubectl get pods -n {self.namespace} -l {label}`."

    @abstractmethod
    def url(self, path: str) -> str:
        """The address of ``path`` as a user would ask it."""

    @abstractmethod
    def send(self, method: str, path: str, body: Optional[Json], timeout: float) -> Reply:
        """:raises OpsError: nobody answered within ``timeout`` seconds; reading the reply may raise it too.

        :raises NotYet: no TLS connection.
        """

    @abstractmethod
    def refused(self, reply: Reply, answer: bytes) -> OpsError:
        """What it means when somebody on the way, and not the model server, gave this answer."""

    def close(self) -> None:  # noqa: B027  most have nothing to close
        pass

    def __enter__(self) -> Door:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def find_door(params: Mapping[str, Any], client: Optional[Client]) -> Door:
    """The door that ``via``, ``address`` and ``host_header`` name; what they leave open is read from the cluster.

    :param client: of the cluster, for those who give a ``name``.
    :raises OpsError: there is no such service, or no such way to it.
    """
    via, address, host = params["via"], params["address"], params["host_header"]
    verify: Verify = (params["tls_ca"] or True) if params["tls_verify"] else False
    if isinstance(verify, str) and not os.path.isfile(verify):
        raise OpsError(f"tls_ca: there is no file {verify}.")
    name, namespace = params["name"], params["namespace"]
    if not name or client is None:
        if via == "apiserver":
            raise OpsError("via: apiserver needs the `name` of the service.")
        return IngressDoor(address, host, verify)
    if via != "apiserver" and address and host:
        return IngressDoor(address, host, verify, name, namespace)
    service = client.get("serving.kserve.io/v1beta1", "InferenceService", name, namespace)
    if service is None:
        raise OpsError(f"There is no InferenceService {name} in namespace {namespace}.")
    if via == "apiserver":
        return ApiServerDoor(client, name, namespace)
    endpoint = _endpoint(client, name, namespace)
    url = urlsplit(_url_of(endpoint) if endpoint else (service.get("status") or {}).get("url") or "")
    # KServe's address inside the cluster is no way in for us
    exposed = bool(url.hostname) and not str(url.hostname).endswith(".svc.cluster.local")
    if exposed and not address:
        ingress = endpoint or client.get(extras.ENDPOINT.api_version, "Ingress", name, namespace) or {}
        address = states.ingress_address(ingress)
        if not ingress:
            address = gateway.addresses(client, namespace, url.scheme).get(name)
    if address and "://" not in address:
        address = f"{url.scheme or 'http'}://{address}"
    if address and (host or exposed):
        return IngressDoor(address, host or url.hostname, verify, name, namespace)
    if via == "auto" and url.hostname:
        return ApiServerDoor(client, name, namespace)
    if not url.hostname:
        raise OpsError(f"InferenceService {namespace}/{name} has no URL yet: wait with nim_kserve until it is ready.")
    raise OpsError(
        f"InferenceService {namespace}/{name} has no address outside the cluster: its Ingress (or Gateway) names none. "
        "Give `address`, or use via: apiserver."
    )


def _endpoint(client: Client, name: str, namespace: str) -> Optional[Json]:
    """The Ingress that nim_kserve made for an `endpoint_host`."""
    try:
        found = client.get(extras.ENDPOINT.api_version, extras.ENDPOINT.kind, extras.ENDPOINT.name(name), namespace)
    except Forbidden:  # most services have none; those who give `address` should not need the right
        return None
    labels = found["metadata"].get("labels") or {} if found else {}
    return found if labels.get(manifests.SERVICE_LABEL) == name else None  # KServe's, of a service of that name


def _url_of(ingress: Json) -> str:
    return f"{'https' if ingress['spec'].get('tls') else 'http'}://{ingress['spec']['rules'][0]['host']}"


class IngressDoor(Door):
    """HTTP with the service's Host header; proxies of the environment apply, as they do for users."""

    via = "ingress"

    def __init__(self, address: str, host: Optional[str], verify: Verify, name: str = "", namespace: str = "") -> None:
        import requests

        self.base = (address if "://" in address else f"http://{address}").rstrip("/")
        self.host = host or urlsplit(self.base).hostname
        self.where = f"{self.base} (Host: {self.host})"
        self.verify = verify
        self.name, self.namespace = name or self.name, namespace or self.namespace
        self.session = requests.Session()
        if not verify:  # the user's own decision, and not worth a line on the console at each request
            warnings.filterwarnings("ignore", "Unverified HTTPS request")
        self.session.mount("https://", _for_host(self.host))

    def url(self, path: str) -> str:
        return self.base + path

    def send(self, method: str, path: str, body: Optional[Json], timeout: float) -> Reply:
        with self._trouble(timeout):
            response = self.session.request(
                method,
                self.url(path),
                json=body,
                headers={"Host": str(self.host)},
                stream=True,
                timeout=(min(CONNECT_TIMEOUT, timeout), timeout),
                verify=self.verify,
                allow_redirects=False,
            )
        headers = {key.lower(): value for key, value in response.headers.items()}
        return Reply(response.status_code, headers, self._chunks(response, timeout))

    def _chunks(self, response: Any, timeout: float) -> Iterator[bytes]:
        with self._trouble(timeout), response:
            # chunks come as they are sent; without chunking a read of more than a byte waits until it is full
            yield from response.iter_content(None if response.raw.chunked else 1)

    @contextlib.contextmanager
    def _trouble(self, timeout: float) -> Iterator[None]:
        from requests import exceptions
        from urllib3.exceptions import ReadTimeoutError

        broken = NotYet if self.base.startswith("https:") else OpsError
        try:
            yield
        except exceptions.ProxyError:
            # not its text: the address of a proxy may hold a password
            raise OpsError(
                f"The proxy of the environment (HTTP_PROXY, HTTPS_PROXY) did not lead to {self.base}: "
                "correct it, or name the address in NO_PROXY."
            ) from None
        except exceptions.SSLError as error:
            raise broken(
                f"No trusted TLS connection to {self.where}: {list(_causes(error))[-1]}. Give the CA that signed its "
                "certificate in `tls_ca`, or correct the address's scheme and the host."
            ) from None
        except exceptions.ConnectTimeout:
            raise OpsError(f"{self.base} accepts no connection: is a firewall in the way? {self._ways}") from None
        except (exceptions.InvalidURL, exceptions.InvalidSchema):
            raise OpsError(f"address: '{self.base}' is no address; give host:port, or an http(s):// URL.") from None
        except exceptions.RequestException as error:
            causes = list(_causes(error))
            if any(isinstance(cause, (exceptions.Timeout, socket.timeout, ReadTimeoutError)) for cause in causes):
                raise _silent(self.where, timeout) from None
            if any(isinstance(cause, ConnectionRefusedError) for cause in causes):
                raise broken(f"Nothing listens at {self.base} (connection refused). {self._ways}") from None
            if any(isinstance(cause, socket.gaierror) for cause in causes):
                raise OpsError(f"The name in {self.base} can't be resolved. {self._ways}") from None
            if isinstance(error, exceptions.ChunkedEncodingError):
                raise broken(
                    f"The answer of {self.where} broke off: its pod has ended, or the ingress gives a request no more "
                    "time (a Gateway's route: the service's `timeout`, 60 s if not set)."
                ) from None
            raise broken(f"The connection to {self.where} broke: {causes[-1]}.") from None

    @property
    def _ways(self) -> str:
        return "Give the ingress's `address`, or use via: apiserver."

    def refused(self, reply: Reply, answer: bytes) -> OpsError:
        said = f"{reply.status}: {brief(answer)}"
        if reply.status == 404:
            return OpsError(
                f"The ingress at {self.base} has no route for the host {self.host} ({said}). See `kubectl get ingress "
                f"-n {self.namespace} {self.name}`: its host and class must be those of this ingress. With the Gateway "
                "API it is an `httproute`."
            )
        if reply.status == 504:
            return OpsError(
                f"The ingress at {self.base} had no answer from {self.host} in the time that it gives ({said}): the "
                "model took longer (a Gateway's route: the service's `timeout`, 60 s if not set), or its pod's node is "
                f"gone. {self._pods}"
            )
        if reply.status in (502, 503):
            return OpsError(
                f"The ingress at {self.base} reaches no ready pod behind {self.host} ({said}). {self._pods}"
            )
        if reply.status in (301, 302, 303, 307, 308):
            target = urlsplit(reply.headers.get("location", ""))
            return OpsError(f"{self.where} sends us on to {target.scheme}://{target.netloc}: give that as `address`.")
        if reply.status in (401, 403):
            return OpsError(f"A login stands in front of {self.where} ({said}); via: apiserver goes round it.")
        return OpsError(f"{self.where} answered {said}, which is not from a model server.")

    def close(self) -> None:
        self.session.close()


def _for_host(host: Optional[str]) -> Any:
    """An adapter that asks for, and checks, the certificate of ``host`` when the connection goes to an address."""
    from requests.adapters import HTTPAdapter

    class ForHost(HTTPAdapter):
        def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
            super().init_poolmanager(*args, server_hostname=host, assert_hostname=host, **kwargs)

    return ForHost()


def _silent(where: str, timeout: float) -> OpsError:
    return OpsError(f"{where} gave no answer within {timeout:.0f} s: the model may be busy; raise `timeout`.")


def brief(answer: bytes) -> str:
    """The beginning of an unexpected answer, on one line."""
    text = " ".join(answer[:400].decode(errors="replace").split())
    return repr(text[:120]) if text else "an empty answer"


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and all that it wraps, in the several ways in which requests and urllib3 wrap."""
    yield error
    inner = [error.__cause__, error.__context__, getattr(error, "reason", None), *error.args]
    for cause in inner:
        if isinstance(cause, BaseException):
            yield from _causes(cause)


class ApiServerDoor(Door):
    """For those who can reach the API server only. Needs the right to `create` and `get` services/proxy."""

    via = "apiserver"

    def __init__(self, client: Client, name: str, namespace: str) -> None:
        self.client = client
        self.host = None
        self.base = f"/api/v1/namespaces/{namespace}/services/http:{name}-predictor:80/proxy"
        self.where = f"service {namespace}/{name}-predictor"
        self.name, self.namespace = name, namespace

    def url(self, path: str) -> str:
        return self.base + path

    def send(self, method: str, path: str, body: Optional[Json], timeout: float) -> Reply:
        with self._trouble(timeout):
            response = self.client.request(
                method, self.url(path), body=body, stream=True, timeout=timeout, retry=False, raise_for=False
            )
        headers = {key.lower(): value for key, value in response.headers.items()}
        return Reply(response.status, headers, self._chunks(response, timeout))

    def _chunks(self, response: Response, timeout: float) -> Iterator[bytes]:
        with self._trouble(timeout), contextlib.closing(response):
            for line in response.lines():
                yield line + b"\n"

    @contextlib.contextmanager
    def _trouble(self, timeout: float) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        except Unreachable as error:
            if time.monotonic() - began < timeout:
                raise
            raise _silent(self.where, timeout) from error

    def refused(self, reply: Reply, answer: bytes) -> OpsError:
        if not is_status(answer):
            return OpsError(f"{self.where} answered {reply.status}: {brief(answer)}, which is not from a model server.")
        # the API server's own word, for instance about the right that is missing
        said = str(from_response(reply.status, answer, method="GET", path=self.base, headers=reply.headers)).rstrip(".")
        if reply.status in (502, 503, 504):
            return OpsError(f"The API server reaches no ready pod behind {self.where}: {said}. {self._pods}")
        if reply.status == 404:
            return OpsError(f"There is no {self.where}: {said}. Is the service deployed, in Standard mode?")
        return OpsError(f"{said}.")
