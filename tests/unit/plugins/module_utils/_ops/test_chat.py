# SPDX-License-Identifier: GPL-3.0-or-later
"""A question to a server on loopback that answers, or fails, in the ways of models and of what stands before them."""

from __future__ import annotations

import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import trustme

from ansible_collections.gpuops.nim.plugins.module_utils._ops import chat
from ansible_collections.gpuops.nim.plugins.modules import nim_chat

MODELS = {
    "object": "list",
    "data": [{"id": "meta/llama3-8b-instruct"}, {"id": "my-lora", "parent": "meta/llama3-8b-instruct"}],
}
Answer = Callable[[BaseHTTPRequestHandler, dict[str, Any]], None]


def send(
    http: BaseHTTPRequestHandler, status: int, body: Any, content_type: str = "application/json", **headers: str
) -> None:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    http.send_response(status)
    for name, value in {"content-type": content_type, "content-length": str(len(data)), **headers}.items():
        http.send_header(name, value)
    http.end_headers()
    http.wfile.write(data)


def stream(*events: Any, pause: float = 0.0) -> Answer:
    def answer(http: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        http.send_response(200)
        http.send_header("content-type", "text/event-stream; charset=utf-8")
        http.end_headers()
        for event in events:
            text = event if isinstance(event, str) else json.dumps(event)
            http.wfile.write(f"data: {text}\n\n".encode())
            http.wfile.flush()
            time.sleep(pause)

    return answer


def word(text: str, finish: str | None = None, **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish}], **more}


def plain(status: int, body: Any, content_type: str = "application/json", **headers: str) -> Answer:
    return lambda http, body_: send(http, status, body, content_type, **headers)


PARIS = stream(
    {"choices": [{"delta": {"role": "assistant"}}]}, word("It is "), word("Paris."), word("", "stop"), "[DONE]"
)


class Server:
    """Answers by path; keeps what it was asked."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {"/v1/models": plain(200, MODELS), "/v1/chat/completions": PARIS}
        self.asked: list[tuple[str, str, dict[str, Any]]] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                size = int(self.headers.get("content-length") or 0)
                body = json.loads(self.rfile.read(size)) if size else {}
                server.asked.append((self.path, self.headers["Host"], body))
                server.answers[self.path](self, body)

            do_POST = do_GET

            def log_message(self, *args: Any) -> None: ...

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.port = self.http.server_port
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.http.shutdown()
    made.http.server_close()


@pytest.fixture
def ask(run_module: Any, server: Server, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    monkeypatch.setattr(chat, "SETTLE", 0.3)
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)

    def ask(**options: Any) -> dict[str, Any]:
        given = {"address": f"127.0.0.1:{server.port}", "host_header": "llama.example.com", "timeout": 30, **options}
        _, result = run_module(nim_chat.main, **given)
        return result

    return ask


def test_an_answer(ask: Any, server: Server) -> None:
    result = ask(prompt="Capital?", max_tokens=7)
    assert (result["answer"], result["finish_reason"], result["changed"]) == ("It is Paris.", "stop", False)
    assert result["model"] == "meta/llama3-8b-instruct"
    assert result["served_models"] == ["meta/llama3-8b-instruct", "my-lora"]
    assert result["tokens"] == {"prompt": None, "completion": 2}
    assert 0 < result["seconds_to_first_token"] <= result["seconds"]
    assert (result["via"], result["host"]) == ("ingress", "llama.example.com")
    path, host, body = server.asked[-1]
    assert (path, host) == ("/v1/chat/completions", "llama.example.com")
    assert body["messages"] == [{"role": "user", "content": "Capital?"}]
    assert (body["max_tokens"], body["stream"], body["model"]) == (7, True, "meta/llama3-8b-instruct")


def test_the_first_token_is_timed_when_it_comes_and_not_when_all_is_there(ask: Any, server: Server) -> None:
    server.answers["/v1/chat/completions"] = stream(word("a"), word("b"), word("c", "stop"), "[DONE]", pause=0.5)
    result = ask()
    assert result["seconds"] - result["seconds_to_first_token"] > 0.5  # of the 1.5 s that the rest takes


def test_the_servers_own_count_of_tokens_wins(ask: Any, server: Server) -> None:
    usage = {"prompt_tokens": 11, "completion_tokens": 5}
    server.answers["/v1/chat/completions"] = stream(
        word("a b c d e", "stop"), {"choices": [], "usage": usage}, "[DONE]"
    )
    assert ask()["tokens"] == {"prompt": 11, "completion": 5}


def test_without_streaming(ask: Any, server: Server) -> None:
    choice = {"message": {"role": "assistant", "content": "Paris."}, "finish_reason": "length"}
    usage = {"prompt_tokens": 3, "completion_tokens": 2}
    server.answers["/v1/chat/completions"] = plain(200, {"choices": [choice], "usage": usage})
    result = ask(stream=False, messages=[{"role": "system", "content": "short"}])
    assert (result["answer"], result["finish_reason"], result["tokens"]["completion"]) == ("Paris.", "length", 2)
    assert result["seconds_to_first_token"] is None
    assert server.asked[-1][2]["messages"] == [{"role": "system", "content": "short"}]


def test_check_mode_asks_nobody(run_module: Any, server: Server) -> None:
    _, result = run_module(nim_chat.main, check=True, address=f"127.0.0.1:{server.port}")
    assert "check mode" in result["skipped_reason"]
    assert server.asked == []


def test_several_services_are_asked_at_the_same_time_and_told_in_order(ask: Any, server: Server) -> None:
    hosts = ["a.example.com", "b.example.com", "c.example.com"]
    all_here = threading.Barrier(len(hosts))

    def answer(http: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        all_here.wait(5)
        time.sleep(0.2 if http.headers["Host"] == hosts[0] else 0)
        PARIS_AT[http.headers["Host"]](http, body)

    PARIS_AT = {host: stream(word(f"I am {host}."), word("", "stop"), "[DONE]") for host in hosts}
    server.answers["/v1/chat/completions"] = answer
    result = ask(services=[{"host_header": host} for host in hosts], host_header=None)
    assert [one["answer"] for one in result["services"]] == [f"I am {host}." for host in hosts]
    assert [one["host"] for one in result["services"]] == hosts
    assert [(one["name"], one["error"]) for one in result["services"]] == [(None, "")] * 3
    assert "answer" not in result


def test_one_service_that_fails_hides_no_other(ask: Any, server: Server) -> None:
    where = f"127.0.0.1:{server.port}"
    services = [{"model": "llama3"}, {"max_tokens": 7}, {"address": "127.0.0.1:1"}]
    result = ask(services=services)
    assert result["failed"] is True
    lines = result["msg"].splitlines()
    assert lines[0] == "2 of 3 services did not answer."
    assert lines[1].startswith(f"[{where}] ")
    assert "'llama3'" in lines[1]
    assert lines[2].startswith("[127.0.0.1:1] Nothing listens at")
    wrong, right, nobody = result["services"]
    assert (right["answer"], right["error"]) == ("It is Paris.", "")
    assert wrong["served_models"] == ["meta/llama3-8b-instruct", "my-lora"]
    assert "'llama3'" in wrong["error"]
    assert "answer" not in nobody
    assert [body["max_tokens"] for path, _, body in server.asked if body] == [7]


def test_an_entrys_own_prompt_goes_before_shared_messages(ask: Any, server: Server) -> None:
    shared = [{"role": "user", "content": "shared"}]
    ask(services=[{"prompt": "own"}], messages=shared)
    ask(services=[{"prompt": None}], messages=shared)
    assert [body["messages"][0]["content"] for _, _, body in server.asked if body] == ["own", "shared"]


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"address": None}, "services[1].name: is needed, or address"),
        ({"max_tokens": "many"}, "services[1].max_tokens: "),
        ({"max_token": 3}, "did you mean max_tokens?"),
        ({"prompt": "a", "messages": [{"role": "user", "content": "b"}]}, "services[1].prompt: stands beside messages"),
        ({"services": []}, "services[1].services: belongs to the task as a whole"),
        ({"address": "x", "ingress_address": "y"}, "is the same as address"),
    ],
)
def test_a_bad_entry_is_named_and_nobody_is_asked(ask: Any, server: Server, entry: Any, words: str) -> None:
    shared = {"address": None} if entry.get("address", "") is None else {}
    for check in (False, True):
        result = ask(services=[{"address": f"127.0.0.1:{server.port}"}, entry], check=check, **shared)
        assert result["failed"] is True
        assert words in result["msg"]
    assert server.asked == []


def test_no_services_are_no_questions(ask: Any) -> None:
    assert ask(services=[])["services"] == []


def test_a_wrong_model_costs_no_question_and_lists_the_right_ones(ask: Any, server: Server) -> None:
    result = ask(model="llama3")
    assert result["failed"] is True
    assert "'llama3'" in result["msg"]
    assert "meta/llama3-8b-instruct, my-lora" in result["msg"]
    assert [path for path, _, _ in server.asked] == ["/v1/models"]


def test_embeddings_and_ranking(ask: Any, server: Server) -> None:
    server.answers["/v1/embeddings"] = plain(200, {"data": [{"embedding": [0.1] * 8}], "usage": {"prompt_tokens": 3}})
    server.answers["/v1/ranking"] = plain(200, {"rankings": [{"index": 1, "logit": 3.5}, {"index": 0, "logit": -1.0}]})
    assert ask(api="embeddings", prompt="x")["dimensions"] == 8
    assert server.asked[-1][2]["input_type"] == "query"
    assert ask(api="ranking", passages=["a", "b"])["rankings"][0] == {"index": 1, "logit": 3.5}
    assert server.asked[-1][2]["passages"] == [{"text": "a"}, {"text": "b"}]


NGINX = b"<html><head><title>404 Not Found</title></head><body><center>nginx</center></body></html>"
ENVOY = b"upstream connect error or disconnect/reset before headers. reset reason: connection failure"


@pytest.mark.parametrize(
    ("path", "answer", "words"),
    [
        # the way there
        (
            "/v1/models",
            plain(404, b"", "text/plain", server="envoy"),
            ["no route for the host llama.example.com", "get ingress"],
        ),
        ("/v1/models", plain(404, NGINX, "text/html"), ["no route for the host"]),
        (
            "/v1/models",
            plain(503, ENVOY, "text/plain", server="envoy"),
            ["reaches no ready pod", "kubectl get pods", "upstream connect"],
        ),
        (
            "/v1/chat/completions",
            plain(504, b"upstream request timeout", "text/plain", server="envoy"),
            ["took longer", "the service's `timeout`", "upstream request timeout"],
        ),
        (
            "/v1/models",
            plain(302, b"", location="https://login.example.com/start?x=1"),
            ["https://login.example.com:", "`address`"],
        ),
        ("/v1/models", plain(401, b"who are you", "text/plain"), ["A login stands in front"]),
        ("/v1/models", plain(200, b"<html>It works!</html>", "text/html"), ["not as a model server does", "It works!"]),
        # the model
        ("/v1/models", plain(503, {"error": {"message": "loading", "code": 503}}), ["not ready yet", "loading"]),
        ("/v1/models", plain(200, {"object": "list", "data": []}), ["serves no model at all"]),
        (
            "/v1/chat/completions",
            plain(404, {"detail": "Not Found"}),
            ["has no /v1/chat/completions", "Not Found", "`api`"],
        ),
        ("/v1/chat/completions", plain(429, {"object": "error", "message": "queue full"}), ["too busy", "queue full"]),
        (
            "/v1/chat/completions",
            plain(400, {"object": "error", "message": "max_tokens too large"}),
            ["refused", "400", "max_tokens too large"],
        ),
        ("/v1/chat/completions", plain(500, {"error": "CUDA error"}), ["refused", "500", "CUDA error"]),
        ("/v1/chat/completions", plain(200, b"oops", "text/plain"), ["not as a model server does", "oops"]),
        (
            "/v1/chat/completions",
            stream(word("It "), {"error": {"message": "engine died"}}),
            ["broke its answer off", "engine died"],
        ),
        ("/v1/chat/completions", stream(word("It is")), ["in the middle of the answer", "log"]),
        ("/v1/chat/completions", stream(word("", "length"), "[DONE]"), ["no text", "`max_tokens`"]),
        ("/v1/chat/completions", stream(word(" ", "stop"), "[DONE]"), ["no text", "`prompt`"]),
        ("/v1/chat/completions", stream("{broken"), ["not as a model server does"]),
    ],
)
def test_each_refusal_has_its_own_message_and_remedy(
    ask: Any, server: Server, path: str, answer: Answer, words: list[str]
) -> None:
    server.answers[path] = answer
    result = ask()
    assert result["failed"] is True
    assert result["changed"] is False
    for expected in words:
        assert expected in result["msg"]


def test_an_ingress_gets_a_moment_to_learn_of_a_new_service(ask: Any, server: Server) -> None:
    began = time.monotonic()

    def later(http: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        send(http, 200, MODELS) if time.monotonic() - began > 0.25 else send(http, 404, b"", "text/plain")

    server.answers["/v1/models"] = later
    assert ask()["answer"] == "It is Paris."


def test_nobody_listens(ask: Any) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    result = ask(address=address)
    assert "connection refused" in result["msg"]
    assert "`address`" in result["msg"]


def test_a_name_that_nobody_knows(ask: Any) -> None:
    result = ask(address="http://models.invalid")
    assert "can't be resolved" in result["msg"]


@pytest.mark.parametrize("address", ["http://[::1", "gopher://x", "http://"])
def test_an_address_that_is_none(ask: Any, address: str) -> None:
    assert "is no address" in ask(address=address)["msg"]


def test_silence_ends_with_the_timeout(ask: Any, server: Server) -> None:
    server.answers["/v1/chat/completions"] = lambda http, body: time.sleep(15)
    began = time.monotonic()
    result = ask(timeout=1)
    assert "no answer within 1 s" in result["msg"]
    assert time.monotonic() - began < 10


def test_a_slow_answer_ends_with_the_timeout_too(ask: Any, server: Server) -> None:
    server.answers["/v1/chat/completions"] = stream(*[word("x")] * 150, pause=0.1)
    began = time.monotonic()
    result = ask(timeout=1)
    assert "did not finish its answer in time" in result["msg"]
    assert time.monotonic() - began < 10


def test_a_connection_that_breaks(ask: Any, server: Server) -> None:
    server.answers["/v1/models"] = lambda http, body: http.connection.shutdown(socket.SHUT_RDWR)
    assert "broke" in ask()["msg"]


@pytest.fixture
def tls(server: Server) -> trustme.CA:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("llama.example.com").configure_cert(context)
    server.http.socket = context.wrap_socket(server.http.socket, server_side=True)
    return authority


def test_the_certificate_is_that_of_the_host_and_not_of_the_address(
    ask: Any, server: Server, tls: trustme.CA, tmp_path: Any
) -> None:
    ca = tmp_path / "ca.pem"
    tls.cert_pem.write_to_path(str(ca))
    address = f"https://127.0.0.1:{server.port}"
    assert ask(address=address, tls_ca=str(ca))["answer"] == "It is Paris."
    assert ask(address=address, tls_verify=False)["answer"] == "It is Paris."
    for wrong in ({}, {"tls_ca": str(ca), "host_header": "other.example.com"}):
        result = ask(address=address, **wrong)
        assert "No trusted TLS connection" in result["msg"]
        assert "`tls_ca`" in result["msg"]


def test_an_ingress_that_takes_up_a_certificate_a_moment_later(
    ask: Any, server: Server, tls: trustme.CA, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat, "SETTLE", 4.0)
    ca = tmp_path / "ca.pem"
    tls.cert_pem.write_to_path(str(ca))
    own = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("ingress.local").configure_cert(own)
    begun = time.monotonic()

    def choose(connection: ssl.SSLObject, name: str, context: ssl.SSLContext) -> None:
        if time.monotonic() < begun + 0.5:
            connection.context = own

    server.http.socket.context.sni_callback = choose
    assert ask(address=f"https://127.0.0.1:{server.port}", tls_ca=str(ca))["answer"] == "It is Paris."
    assert time.monotonic() > begun + 0.5


def test_a_ca_file_that_is_not_there(ask: Any, server: Server) -> None:
    assert "tls_ca" in ask(address=f"https://127.0.0.1:{server.port}", tls_ca="/no/such/file.pem")["msg"]


def test_plain_http_where_tls_is_expected(ask: Any, server: Server) -> None:
    result = ask(address=f"https://127.0.0.1:{server.port}")
    assert "TLS" in result["msg"]


def test_a_dead_proxy_is_named_without_its_password(ask: Any, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://user:hunter2secret@127.0.0.1:1")
    result = ask()
    assert "proxy" in result["msg"]
    assert "hunter2secret" not in json.dumps(result)


def test_a_proxy_of_the_environment_is_used(ask: Any, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{server.port}")
    server.answers["http://models.invalid/v1/models"] = plain(200, MODELS)
    server.answers["http://models.invalid/v1/chat/completions"] = PARIS
    assert ask(address="models.invalid")["answer"] == "It is Paris."


def test_name_or_address(run_module: Any) -> None:
    assert "name, address" in run_module(nim_chat.main)[1]["msg"]
