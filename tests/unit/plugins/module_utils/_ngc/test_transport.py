# SPDX-License-Identifier: GPL-3.0-or-later
"""What goes over the wire, and what doesn't, with servers on loopback that answer as they are told."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from ansible_collections.gpuops.nim.plugins.module_utils._ngc import caller, registry
from ansible_collections.gpuops.nim.plugins.module_utils._ngc.catalog import Catalog
from ansible_collections.gpuops.nim.plugins.module_utils._ngc.registry import Inquiry, Login, Question, Shared
from ansible_collections.gpuops.nim.plugins.module_utils._ngc.transport import Trouble, Way, Web
from ansible_collections.gpuops.nim.plugins.module_utils._ngc.verdict import Verdict

PASSWORD = "pass-of-the-mirror"
SECRET = "nvapi-unit-0123456789abcdefghijklmnop"
Answer = tuple[int, dict[str, str], str]


class Told:
    """An HTTP server. answers: path to status, headers and body; seen: path and Authorization header."""

    def __init__(self) -> None:
        told = self
        self.answers: dict[str, Answer | Callable[[], Answer]] = {}
        self.seen: list[tuple[str, str]] = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                path = self.path.partition("?")[0]
                told.seen.append((path, self.headers.get("Authorization", "")))
                answer = told.answers.get(path, (404, {}, "{}"))
                status, headers, body = answer() if callable(answer) else answer
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body.encode())), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body.encode())

            do_POST = do_GET

            def log_message(self, *args: Any) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self.elsewhere = f"http://localhost:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Told]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    told = Told()
    yield told
    told.stop()


@pytest.fixture
def web(server: Told) -> Iterator[Web]:
    made = Web(Way({"r": server.url, "api.ngc.nvidia.com": server.url}, timeout=2), [SECRET, PASSWORD])
    yield made
    made.close()


BEARER = {"Authorization": f"Bearer {SECRET}"}


def test_a_redirect_takes_no_login_to_another_host_and_no_form_anywhere(server: Told, web: Web) -> None:
    server.answers["/here"] = (307, {"Location": f"{server.elsewhere}/there"}, "")
    server.answers["/there"] = (200, {}, "{}")
    assert web.ask("r", "/here", headers=BEARER).redirected
    assert server.seen == [("/here", BEARER["Authorization"]), ("/there", "")]
    server.seen.clear()
    reply = web.ask("r", "/here", method="POST", headers=BEARER, form={"credentials": SECRET}, follow=False)
    assert (reply.status, [path for path, _ in server.seen]) == (307, ["/here"])


def test_the_key_goes_to_ngc_alone_even_when_ngc_sends_it_on(server: Told, web: Web) -> None:
    server.answers["/v3/keys/get-caller-info"] = (307, {"Location": f"{server.elsewhere}/there"}, "")
    assert caller.about(web, SECRET).verdict == "unknown"
    assert [path for path, _ in server.seen] == ["/v3/keys/get-caller-info"]


@pytest.mark.parametrize(
    "body",
    [
        f"the key {SECRET} is wrong",
        f"no login Basic {base64.b64encode(f'$oauthtoken:{SECRET}'.encode()).decode()}",
        json.dumps({"errors": [{"code": "UNAUTHORIZED", "message": f"{SECRET}: no"}]}),
        json.dumps({"message": f"Bearer {SECRET}"}),
        "nvapi-of-somebody-else",
        f"user u may not come with {PASSWORD}",
        f"sent: {base64.b64encode(PASSWORD.encode()).decode()}",
        "eyJhbGciOiJFUzI1NiIsInR5cCI6IkpXVCJ9.eyJpc3MiOiJyIn0.c2lnbmF0dXJl",
        "<html><title>401</title>" + SECRET * 90,
    ],
)
def test_evidence_is_short_and_holds_no_secret_that_the_server_repeats(server: Told, web: Web, body: str) -> None:
    server.answers["/x"] = (401, {}, body)
    evidence = web.ask("r", f"/x?credentials={SECRET}", headers=BEARER).evidence
    shown = repr(evidence)
    assert "********" in evidence.said
    assert len(evidence.said) <= 240
    for trace in (
        SECRET,
        PASSWORD,
        base64.b64encode(PASSWORD.encode()).decode(),
        "nvapi-of",
        "eyJ",
        base64.b64encode(f"$oauthtoken:{SECRET}".encode()).decode()[16:-4],
    ):
        assert trace not in shown


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ('{"errors":[{"code":"DENIED","message":"Access Denied"}]}', "DENIED: Access Denied"),
        ('{"requestStatus":{"statusCode":"UNAUTHORIZED","statusDescription":"Invalid"}}', "UNAUTHORIZED: Invalid"),
        ('{"message":"no"}', "no"),
        ("<html><head><title>403 Forbidden</title></head><body>nginx</body></html>", "403 Forbidden nginx"),
        ("", "Forbidden"),
    ],
)
def test_what_was_said_in_any_of_the_usual_forms(server: Told, web: Web, body: str, said: str) -> None:
    server.answers["/x"] = (403, {"Content-Type": "text/html" if "<" in body else "application/json"}, body)
    assert web.ask("r", "/x").evidence.said == said


@pytest.mark.parametrize("after", ["1", "http date"])
def test_retry_after_in_both_forms(server: Told, web: Web, after: str) -> None:
    from email.utils import formatdate

    moment = formatdate(time.time() + 1, usegmt=True) if after == "http date" else after
    answers = iter([(429, {"Retry-After": moment}, ""), (200, {}, "{}")])
    server.answers["/x"] = lambda: next(answers)
    assert web.ask("r", "/x").status == 200


def test_repetitions_end(server: Told, web: Web) -> None:
    server.answers["/x"] = (500, {}, "")
    with pytest.raises(Trouble) as caught:
        web.ask("r", "/x")
    assert caught.value.judgement.verdict == "unavailable"
    assert len(server.seen) == 3


def test_an_answer_without_end_is_cut_off(server: Told, web: Web) -> None:
    server.answers["/x"] = (200, {}, json.dumps("x" * (5 << 20)))
    with pytest.raises(Trouble) as caught:
        web.ask("r", "/x")
    assert caught.value.judgement.verdict in ("unavailable", "unknown")


def verdict(web: Web, login: Login | None) -> Verdict:
    shared = Shared(web, Catalog(web), lambda: None)
    return Inquiry(shared, Question("r/a/b:1", "r", "a/b", "1"), login).verdict()


def test_a_registry_that_knows_only_basic_in_words_of_its_own(server: Told, web: Web) -> None:
    server.answers["/v2/a/b/manifests/1"] = (403, {}, "{}")  # no challenge here
    server.answers["/v2/"] = (401, {"WWW-Authenticate": 'basic realm="x"'}, "")
    found = verdict(web, Login("u", SECRET))
    assert found.verdict == "not_entitled"
    assert [auth.partition(" ")[0] for _, auth in server.seen] == ["", "", "Basic"]


def test_no_right_to_the_repository_is_no_bad_login(server: Told, web: Web) -> None:
    realm = f'Bearer realm="{server.url}/token",service="s"'
    server.answers["/v2/a/b/manifests/1"] = (401, {"WWW-Authenticate": f'{realm},error="insufficient_scope"'}, "{}")
    server.answers["/token"] = (200, {}, '{"access_token": "t"}')
    assert verdict(web, Login("u", SECRET)).verdict == "not_entitled"


def test_a_registry_without_any_login(server: Told, web: Web) -> None:
    server.answers["/v2/a/b/manifests/1"] = (200, {"Docker-Content-Digest": "sha256:1"}, '{"layers": [{"size": 5}]}')
    found = verdict(web, None)
    assert (found.verdict, found.good, found.facts and found.facts.size) == ("not_needed", True, 5)


@pytest.mark.parametrize(
    "body", ["[]", '{"token": ""}', '{"layers": 3, "config": []}', '{"manifests": [1, {}]}', "null"]
)
def test_strange_manifests_and_tokens_do_no_harm(server: Told, web: Web, body: str) -> None:
    server.answers["/v2/a/b/manifests/1"] = (200, {}, body)
    assert verdict(web, None).verdict in ("not_needed", "unavailable")
    realm = f'Bearer realm="{server.url}/token"'
    server.answers["/v2/a/b/manifests/1"] = (401, {"WWW-Authenticate": realm}, "{}")
    server.answers["/token"] = (200, {}, body)
    assert verdict(web, Login("u", SECRET)).verdict in ("unknown", "unavailable")


def test_a_token_service_without_tls_gets_no_login(server: Told, pki: Any, ngc_server: Any) -> None:
    """A registry with TLS that names such a one; the stand-in passes on what the registry behind it says."""
    web = Web(Way({"r": ngc_server.url}, str(ngc_server.ca), timeout=2), [SECRET])
    inquiry = Inquiry(Shared(web, Catalog(web), lambda: None), Question("r/a/b:1", "r", "a/b", "1"), None)
    inquiry._ask("/token", {})
    challenge = registry._Challenge("bearer", f"{server.url}/token")
    with pytest.raises(Trouble) as caught:
        inquiry._token(challenge, Login("u", SECRET), "")
    web.close()
    assert "without TLS" in caught.value.judgement.cause
    assert server.seen == []
