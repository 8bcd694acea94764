# SPDX-License-Identifier: GPL-3.0-or-later
"""The nim stand-in keeps the contract of its release line: as a process, with a real ngc stand-in to download from."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.gpuops.nim.tests.unit.standins import ROOT, Ngc, start, stop, wait_for
from rehearsal.standins import ngc, nim

MODEL = "meta/llama3-8b-instruct"
PROGRAM = ROOT / "rehearsal/standins/nim.py"
LINES = ("1.0.0", "1.3.0", "2.0.12")
MESSAGES = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Where is Hangzhou?"}]


@dataclass
class Nim:
    port: int
    process: subprocess.Popen[str]
    log: list[str]

    def ask(self, path: str, body: object = None) -> tuple[int, Any]:
        """Status and the decoded body; `body` goes as JSON, bytes as they are. Raises OSError when nobody listens."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        connection.request(*(("GET", path) if body is None else ("POST", path, data)))
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        json_body = (answer.headers["Content-Type"] or "").startswith("application/json")
        return answer.status, json.loads(text) if json_body else text

    def ready(self) -> Nim:
        wait_for("Uvicorn running|startup complete", self.log, self.process)
        assert self.ask("/v1/health/ready")[0] == 200
        return self

    def ended(self) -> str:
        """Everything it said, once it ended by itself with an error."""
        assert self.process.wait(10) == 1
        time.sleep(0.02)
        return "".join(self.log)

    def chat(self, **more: Any) -> tuple[int, Any]:
        return self.ask("/v1/chat/completions", {"model": MODEL, "messages": MESSAGES, **more})


Start = Callable[..., Nim]


@pytest.fixture
def run(ngc_server: Ngc, tmp_path: Path) -> Iterator[Start]:
    """Start a NIM; arguments are more environment variables."""
    running = []

    def begin(release: str = "1.0.0", **env: str) -> Nim:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        environment = {
            "NIM_STANDIN_MODEL": MODEL,
            "NIM_STANDIN_RELEASE": release,
            "NIM_STANDIN_KIND": "chat",
            "NIM_STANDIN_NGC_URL": ngc_server.url,
            "NIM_STANDIN_LOAD_SECONDS": "0.01",
            "NIM_CACHE_PATH": str(tmp_path / "cache"),
            "NIM_SERVER_PORT": str(port),
            "NIM_LOG_LEVEL": "INFO",
            "NGC_API_KEY": ngc.KEYS["valid"],
            "SSL_CERT_FILE": str(ngc_server.ca),
            "NIM_SDK_USE_NATIVE_TLS": "1",
            **env,
        }
        process, log = start([sys.executable, "-I", "-S", str(PROGRAM)], env=environment)
        running.append(process)
        return Nim(port, process, log)

    yield begin
    for process in running:
        if process.poll() is None:
            stop(process)


# --- serving
@pytest.mark.parametrize("release", LINES)
def test_it_answers_and_says_who_it_is(run: Start, release: str) -> None:
    service = run(release).ready()
    assert service.ask("/v1/health/live")[0] == 200
    assert service.ask("/v1/version") == (200, {"release": release, "api": release})
    assert [model["id"] for model in service.ask("/v1/models")[1]["data"]] == [MODEL]
    assert service.ask("/v1/metadata")[1]["modelInfo"][0]["modelUrl"] == f"ngc://nim/{MODEL}:hf"
    assert service.ask("/v1/manifest")[0] == service.ask("/v1/license")[0] == 200
    assert service.ask("/v1/nothing") == (404, {"detail": "Not Found"})
    status, answer = service.chat()
    content = answer["choices"][0]["message"]["content"]
    assert status == 200
    assert answer["object"] == "chat.completion"
    for part in (MODEL, f"release {release}", socket.gethostname(), "2 messages", "Where is Hangzhou?"):
        assert part in content
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"]["total_tokens"] == answer["usage"]["prompt_tokens"] + len(content.split())
    assert service.chat()[1]["choices"] == answer["choices"]
    other = service.chat(messages=[MESSAGES[0], {"role": "user", "content": "Elsewhere"}])[1]
    assert re.findall("digest \\w+", str(other)) != re.findall("digest \\w+", str(answer))


@pytest.mark.parametrize("release", LINES)
def test_a_stream_brings_the_same_answer_piece_by_piece(run: Start, release: str) -> None:
    service = run(release).ready()
    whole = service.chat()[1]
    _, text = service.chat(stream=True, stream_options={"include_usage": True})
    events = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    assert events.pop() == "[DONE]"
    *chunks, last = [json.loads(event) for event in events]
    assert last["usage"] == whole["usage"]
    assert last["choices"] == []
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    content = [chunk["choices"][0]["delta"].get("content", "") for chunk in chunks]
    assert "".join(content) == whole["choices"][0]["message"]["content"]
    assert len(content) > 10
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks][-2:] == [None, "stop"]


def test_the_first_piece_arrives_before_the_last_is_made(run: Start) -> None:
    service = run().ready()
    body = {"model": MODEL, "messages": [{"role": "user", "content": "word " * 200}], "stream": True}
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=30)
    begun = time.monotonic()
    connection.request("POST", "/v1/chat/completions", json.dumps(body))
    answer = connection.getresponse()
    answer.read1(10)
    first = time.monotonic() - begun
    answer.read()
    connection.close()
    assert first < (time.monotonic() - begun) / 3


def test_limits_and_mistakes_are_answered_as_nim_does(run: Start) -> None:
    service = run("1.0.0").ready()
    answer = service.chat(max_tokens=3)[1]
    assert (answer["choices"][0]["finish_reason"], answer["usage"]["completion_tokens"]) == ("length", 3)
    status, body = service.chat(model="meta/llama-3-8b")
    assert (status, body["object"], body["type"]) == (404, "error", "NotFoundError")
    assert "The model `meta/llama-3-8b` does not exist" in body["message"]
    assert service.ask("/v1/chat/completions", b"{not json")[0] == 400
    assert service.ask("/v1/chat/completions", {"model": MODEL})[0] == 400
    assert service.ask("/v1/embeddings", {"model": MODEL, "input": "x"})[0] == 404
    status, body = service.ask("/v1/completions", {"model": MODEL, "prompt": "Once upon a time"})
    assert (status, body["object"]) == (200, "text_completion")
    assert body["choices"][0]["text"].endswith("Once upon a time")
    second = run("2.0.12").ready()
    assert second.chat(model="else")[1]["error"]["code"] == 404


def test_embeddings(run: Start) -> None:
    model = "nvidia/nv-embedqa-e5-v5"
    service = run(NIM_STANDIN_MODEL=model, NIM_STANDIN_KIND="embedding").ready()
    body = {"model": model, "input": ["one", "two"], "input_type": "query"}
    status, answer = service.ask("/v1/embeddings", body)
    vectors = [entry["embedding"] for entry in answer["data"]]
    assert status == 200
    assert [len(vector) for vector in vectors] == [1024, 1024]
    assert sum(value**2 for value in vectors[0]) == pytest.approx(1)
    assert vectors[0] != vectors[1]
    assert service.ask("/v1/embeddings", body)[1] == answer
    assert service.ask("/v1/embeddings", {**body, "input_type": "passage"})[1] != answer
    status, answer = service.ask("/v1/embeddings", {"model": model, "input": "one"})
    assert status == 422
    assert "input_type" in answer["message"]


def test_ranking(run: Start) -> None:
    model = "nvidia/nv-rerankqa-mistral-4b-v3"
    service = run(NIM_STANDIN_MODEL=model, NIM_STANDIN_KIND="ranking").ready()
    passages = [{"text": "about bread"}, {"text": "the lake of Hangzhou"}, {"text": "the lake"}]
    body = {"model": model, "query": {"text": "lake Hangzhou"}, "passages": passages}
    status, answer = service.ask("/v1/ranking", body)
    assert status == 200
    assert [entry["index"] for entry in answer["rankings"]] == [1, 2, 0]
    assert service.ask("/v1/ranking", {"model": model})[0] == 422


@pytest.mark.parametrize(
    ("release", "path", "other", "prefix"),
    [("1.0.0", "/metrics", "/v1/metrics", ""), ("1.3.0", "/v1/metrics", "/metrics", ""),
     ("2.0.12", "/v1/metrics", "/metrics", "vllm:")],
)  # fmt: skip
def test_metrics_count_what_was_served(run: Start, release: str, path: str, other: str, prefix: str) -> None:
    service = run(release).ready()
    assert service.ask(other)[0] == 404

    def value(name: str, labels: str = "") -> float:
        found = re.search(rf"^{prefix}{name}\{{[^}}]*{labels}[^}}]*\}} (\S+)$", service.ask(path)[1], re.M)
        assert found, name
        return float(found[1])

    assert value("generation_tokens_total") == 0
    usage = [service.chat(max_tokens=limit)[1]["usage"] for limit in (5, 1000)]
    assert value("generation_tokens_total") == sum(one["completion_tokens"] for one in usage)
    assert value("prompt_tokens_total") == sum(one["prompt_tokens"] for one in usage)
    assert value("time_to_first_token_seconds_count") == 2
    assert value("time_to_first_token_seconds_bucket", 'le="0.02"') == 0
    assert value("e2e_request_latency_seconds_bucket", r'le="\+Inf"') == 2
    finished = "request_success_total" if prefix else "request_finish_total"
    assert value(finished, 'finished_reason="length"') == value(finished, 'finished_reason="stop"') == 1
    assert value("num_requests_running") == 0
    assert f'model_name="{MODEL}"' in service.ask(path)[1]


def test_served_names_can_be_changed(run: Start) -> None:
    service = run("2.0.12", NIM_SERVED_MODEL_NAME="mine,too").ready()
    assert [model["id"] for model in service.ask("/v1/models")[1]["data"]] == ["mine", "too"]
    assert service.chat()[0] == 404
    assert service.chat(model="too")[0] == 200


# --- starting and ending
def test_the_port_of_1_0_is_closed_until_the_model_is_loaded(run: Start) -> None:
    service = run("1.0.0", NIM_STANDIN_FAIL="hang")
    wait_for("Initializing an LLM engine", service.log, service.process)
    with pytest.raises(ConnectionRefusedError):
        service.ask("/v1/health/live")


@pytest.mark.parametrize("release", LINES[1:])
def test_later_lines_are_live_at_once_and_ready_later(run: Start, release: str) -> None:
    service = run(release, NIM_STANDIN_FAIL="slow:0.5")
    wait_for("Initializing an LLM engine", service.log, service.process)
    assert service.ask("/v1/health/live")[0] == 200
    status, body = service.ask("/v1/health/ready")
    assert status == 503
    assert (body.get("error") or body)["code"] == 503
    assert service.chat()[0] == 503
    ready = service.ready().ask("/v1/health/ready")[1]
    assert ready["message"] == "Service is ready."
    assert ("status" in ready) == (release == "2.0.12")


@pytest.mark.parametrize("fail", ["", "hang"])
def test_sigterm_ends_it_at_once(run: Start, fail: str) -> None:
    service = run(NIM_STANDIN_FAIL=fail)
    wait_for("Initializing an LLM engine" if fail else "Uvicorn running", service.log, service.process)
    service.process.terminate()
    assert service.process.wait(3) == 0


def test_2_x_is_silent_unless_it_is_told_to_speak(run: Start) -> None:
    service = run("2.0.12", NIM_LOG_LEVEL="")
    while service.process.poll() is None:
        try:
            assert service.ask("/v1/health/ready")[0] == 200
            break
        except (AssertionError, OSError):
            time.sleep(0.02)
    assert "config.json" not in "".join(service.log)


# --- the key and the model
def test_the_model_is_downloaded_once_and_kept_as_the_hub_does(run: Start, ngc_server: Ngc, tmp_path: Path) -> None:
    service = run().ready()
    assert re.search(r"config\.json \[00:00:00\] \[█{40}\] 654 B/654 B", "".join(service.log))
    root = tmp_path / "cache/ngc/hub/models--nim--meta--llama3-8b-instruct"
    links = list((root / "snapshots/hf").iterdir())
    assert all(link.is_symlink() and link.resolve().parent == root / "blobs" for link in links)
    assert sum(link.stat().st_size for link in links) == pytest.approx(1 << 20, abs=1)
    ngc_server.log.clear()
    log = "".join(run().ready().log)
    assert "Model workspace is now ready" in log
    assert "KiB" not in log
    assert not [line for line in ngc_server.log if "files/" in line]


def test_a_filled_cache_needs_no_key_and_no_ngc(run: Start) -> None:
    stop(run().ready().process)
    run(NGC_API_KEY="", NIM_STANDIN_NGC_URL="https://127.0.0.1:1").ready()


def test_a_download_that_was_cut_off_goes_on(run: Start, ngc_server: Ngc, tmp_path: Path) -> None:
    with ngc.editing(ngc_server.control) as state:
        state.download_rate = 500_000
    first = run()
    blobs = tmp_path / "cache/ngc/hub/models--nim--meta--llama3-8b-instruct/blobs"
    deadline = time.monotonic() + 30

    def begun() -> bool:
        with contextlib.suppress(FileNotFoundError):  # a file that is whole gets another name
            return any(part.stat().st_size > 100_000 for part in blobs.glob("*.incomplete"))
        return False

    while not begun():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    first.process.kill()
    first.process.wait()
    had = sum(part.stat().st_size for part in blobs.iterdir())
    with ngc.editing(ngc_server.control) as state:
        state.download_rate = 0
    ngc_server.log.clear()
    run().ready()
    assert had > 100_000
    assert len([line for line in ngc_server.log if "/files/model-" in line and " 206 " in line]) == 1
    assert not list(blobs.glob("*.incomplete"))


@pytest.mark.parametrize("release", ["1.0.0", "2.0.12"])
@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("", "The requested operation requires an API key, but none was found"),
        (ngc.KEYS["valid"] + "\n", "InvalidHeaderValue"),
        ("nvapi-wrong", "HTTP status client error (401 Unauthorized) for url (https://api.ngc.nvidia.com/v2/org/nim/"),
        (ngc.KEYS["unentitled"], "(402 Payment Required)"),
        (ngc.KEYS["denied"], "(403 Forbidden)"),
    ],
)
def test_without_a_working_key_it_ends_in_nims_own_words(run: Start, release: str, key: str, words: str) -> None:
    log = run(release, NGC_API_KEY=key).ended()
    assert words in log
    assert ngc.KEYS["valid"] not in log


def test_a_public_model_needs_no_key(run: Start, ngc_server: Ngc) -> None:
    with ngc.editing(ngc_server.control) as state:
        state.public.append(f"nim/{MODEL}")
    run("2.0.12", NGC_API_KEY="").ready()


def test_the_repository_can_be_overridden_since_1_3(run: Start, ngc_server: Ngc, tmp_path: Path) -> None:
    env = {"NIM_REPOSITORY_OVERRIDE": ngc_server.url + "/", "NIM_STANDIN_NGC_URL": "https://127.0.0.1:1"}
    run("1.3.0", **env).ready()
    log = run("1.0.0", NIM_CACHE_PATH=str(tmp_path / "other"), **env).ended()
    assert "tcp connect error: Connection refused (os error 111)" in log


def test_patience_with_a_busy_ngc_has_an_end(run: Start, ngc_server: Ngc) -> None:
    ngc.set_fault(ngc_server.control, "files", ngc.Fault(status=503, count=1))
    run().ready()
    ngc.set_fault(ngc_server.control, "files", ngc.Fault(status=503))
    assert "server error (503 Service Unavailable)" in run().ended()


@pytest.mark.parametrize(
    ("release", "words"),
    [
        ("1.0.0", "One or more errors fetching files:\nconfig.json: Permission denied (os error 13)"),
        ("2.0.12", "ManifestDownloadError: Error downloading manifest: I/O error: Permission denied (os error 13)"),
    ],
)
def test_a_cache_that_is_not_writable(release: str, words: str) -> None:
    # root may write everywhere, so it runs as somebody who may not; he can't read our folders: it comes by stdin
    python = shutil.which("python3", path="/usr/bin")
    if not python:
        pytest.fail("needs a Python that every user may run: /usr/bin/python3")
    with tempfile.TemporaryDirectory() as folder, PROGRAM.open() as source:
        Path(folder).chmod(0o555)
        env = {"NIM_STANDIN_MODEL": MODEL, "NIM_STANDIN_RELEASE": release, "NIM_STANDIN_KIND": "chat"}
        env |= {"NIM_STANDIN_NGC_URL": "https://127.0.0.1:1", "NIM_CACHE_PATH": f"{folder}/cache", "NGC_API_KEY": "x"}
        who: dict[str, Any] = {"user": 1000, "group": 1000, "extra_groups": []} if os.geteuid() == 0 else {}
        done = subprocess.run([python, "-I", "-"], stdin=source, env=env, capture_output=True, text=True, **who)
    assert done.returncode == 1
    assert words in done.stdout


# --- failures on demand
@pytest.mark.parametrize(
    ("fail", "words"),
    [
        ("crash", "RuntimeError: the stand-in was told to crash"),
        ("driver", "compatibility mode is UNAVAILABLE"),
        ("nvml", "Failed to initialize NVML"),
        ("profile", "Could not find a profile that is currently runnable with the detected hardware"),
        ("gpu-busy", "Free GPUs: <None>"),
        ("dns", "dns error: failed to lookup address information"),
        ("proxy", "tunnel error"),
        ("ca", "invalid peer certificate: UnknownIssuer"),
        ("cache-full", "No space left on device (os error 28)"),
        ("cuda-oom", "torch.cuda.OutOfMemoryError: CUDA out of memory"),
        ("trt-oom", "Error Code 2: OutOfMemory"),
        ("kv-cache-none", "No available memory for the cache blocks"),
        ("kv-cache", "is larger than the maximum number of tokens that can be stored in KV cache"),
        ("nccl-shm", "NCCL WARN Error while creating shared memory segment /dev/shm/nccl-"),
        ("bus-error", "Unexpected bus error encountered in worker"),
        ("lora", "Only looking for compatible profiles that support LoRA"),
        ("links-lost", "snapshots/hf does not appear to have a file named config.json"),
        ("p2p-cache", "gpu_p2p_access_cache_for_0,1.json"),
        ("ecc", "uncorrectable ECC error"),
        ("port-conflict", "address already in use"),
        ("crash-after:0.1", "told to crash after a while"),
        ("typo", "'typo' is none of crash"),
    ],
)
def test_it_fails_as_it_is_told(run: Start, fail: str, words: str) -> None:
    assert words in run(NIM_STANDIN_FAIL=fail).ended()


@pytest.mark.parametrize(
    ("fail", "words"),
    [
        ("profile", "Could not match a profile in manifest"),
        ("kv-cache", "GiB KV cache is needed, which is larger than the available KV cache memory"),
        ("port-conflict", "nginx: [emerg] bind() to 0.0.0.0:"),
    ],
)
def test_2_x_fails_in_its_own_words(run: Start, fail: str, words: str) -> None:
    assert words in run("2.0.12", NIM_STANDIN_FAIL=fail).ended()


def test_every_failure_is_tested() -> None:
    text = Path(__file__).read_text()
    assert [name for name in nim.FAILURES if f'"{name}' not in text] == []


def test_profiles(run: Start) -> None:
    known = "8835c31752fbc67ef658b20a9f78e056914fdef0660206d82f252d62fd96064d"
    assert f"Selected profile: {known} (vllm-fp16-tp1)" in "".join(run().ready().log)
    assert "(vllm-fp16-tp2)" in "".join(run(NIM_MODEL_PROFILE="vllm-fp16-tp2").ready().log)
    assert "Could not find a profile" in run(NIM_MODEL_PROFILE="0" * 64).ended()
    assert "Could not find a profile" in run(NIM_MODEL_PROFILE="vllm-fp16-tp2", NVIDIA_VISIBLE_DEVICES="0").ended()


def test_the_remedy_of_a_short_kv_cache_helps(run: Start) -> None:
    run(NIM_STANDIN_FAIL="kv-cache", NIM_MAX_MODEL_LEN="4096").ready()


def test_out_of_memory_spares_a_machine_without_a_limit(run: Start) -> None:
    service = run(NIM_STANDIN_FAIL="oom")
    assert service.process.wait(10) == -9


def test_a_gpu_fault_ends_it_at_the_first_inference(run: Start) -> None:
    service = run(NIM_STANDIN_FAIL="xid").ready()
    with pytest.raises((http.client.HTTPException, ConnectionError)):
        service.chat()
    assert "an illegal memory access was encountered" in service.ended()


def test_it_can_become_unhealthy(run: Start) -> None:
    service = run(NIM_STANDIN_FAIL="unhealthy-after:0.4").ready()
    time.sleep(0.45)
    assert service.ask("/v1/health/ready")[0] == 503
    assert service.ask("/v1/health/live")[0] == 200
