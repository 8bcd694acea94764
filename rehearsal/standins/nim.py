# SPDX-License-Identifier: GPL-3.0-or-later
"""A stand-in for an NVIDIA NIM container: the contract of its release line, without a GPU and without a model.

It runs alone inside an image that has only Python's standard library. The image says which NIM it stands for
(NIM_STANDIN_MODEL, _RELEASE, _KIND, _NGC_URL); NIM's own variables mean what they mean to NIM. For tests:

NIM_STANDIN_LOAD_SECONDS  how long loading takes after the download, default 1
NIM_STANDIN_FAIL          how to fail: a name of FAILURES, some with `:seconds`; unset = as the ngc stand-in is told

Answers are deterministic and tell who answered and what was asked.
"""

from __future__ import annotations

import base64
import errno
import fcntl
import hashlib
import http.client
import json
import math
import os
import signal
import socket
import ssl
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import SplitResult, urlsplit

NGC = "https://api.ngc.nvidia.com"
SYSTEM_CA = "/etc/ssl/certs/ca-certificates.crt"
MODEL_VERSION = "hf"
MAX_MODEL_LEN = 8192
REQUESTS_AT_ONCE = 256
FIRST_TOKEN_SECONDS = 0.03
TOKEN_SECONDS = 0.002
DIMENSIONS = 1024

FAILURES = {
    "crash": "ends with a traceback at once",
    "crash-after": "serves for so many seconds, then ends with a traceback",
    "driver": "the node's driver is too old",
    "nvml": "the container toolkit did not bring the GPU in",
    "profile": "no profile fits the GPU",
    "gpu-busy": "another process has the GPU's memory",
    "dns": "api.ngc.nvidia.com is not found",
    "proxy": "the proxy refuses",
    "ca": "the certificate of NGC (or of a proxy before it) is not trusted",
    "cache-full": "the cache volume runs full during the download",
    "oom": "really takes memory until the kernel ends the container",
    "cuda-oom": "the GPU's memory is too small for the weights",
    "trt-oom": "the same, in TensorRT's words",
    "kv-cache": "and for the KV cache; NIM_MAX_MODEL_LEN of 4848 or less helps",
    "kv-cache-none": "nothing at all is left for the KV cache",
    "nccl-shm": "/dev/shm is too small",
    "bus-error": "the same, as PyTorch's workers notice it",
    "lora": "NIM_PEFT_SOURCE is set and no profile for this GPU takes adapters",
    "links-lost": "the cache was copied without its symbolic links",
    "p2p-cache": "several GPUs, and vLLM can't write what it found out about them into the cache",
    "ecc": "the GPU's memory is broken",
    "port-conflict": "somebody else listens on the port",
    "hang": "loads for ever",
    "slow": "loads for so many seconds longer",
    "unhealthy-after": "is not ready any more after so many seconds",
    "xid": "the GPU fails at the first inference",
}
_WITH_SECONDS = ("slow", "crash-after", "unhealthy-after")


class Failure(Exception):
    """The container ends with this as its last words, in the wording of the real one."""


# --- settings ---------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Settings:
    """What the image and the pod say. release: such as (1, 0, 3); model: such as ``meta/llama3-8b-instruct``."""

    model: str
    release: tuple[int, ...]
    kind: str
    ngc_url: str
    override: str
    key: str
    cache: Path
    served: tuple[str, ...]
    port: int
    level: str
    trusted: str
    profile: str
    gpus: int | None
    max_model_len: int
    load_seconds: float
    fail: str
    fail_seconds: float

    @classmethod
    def read(cls, env: Mapping[str, str]) -> Settings:
        """Raises Failure for a value that makes no sense."""
        release = tuple(int(part) for part in env["NIM_STANDIN_RELEASE"].split("."))
        fail, _, seconds = env.get("NIM_STANDIN_FAIL", "").partition(":")
        if fail and (fail not in FAILURES or bool(seconds) != (fail in _WITH_SECONDS)):
            known = ", ".join(name + ":SECONDS" * (name in _WITH_SECONDS) for name in FAILURES)
            raise Failure(f"NIM_STANDIN_FAIL: {fail!r} is none of {known}")
        devices = env.get("NVIDIA_VISIBLE_DEVICES", "all")
        model = env["NIM_STANDIN_MODEL"]
        try:
            return cls(
                model=model,
                release=release,
                kind=env["NIM_STANDIN_KIND"],
                ngc_url=env["NIM_STANDIN_NGC_URL"],
                override=env.get("NIM_REPOSITORY_OVERRIDE", "").rstrip("/") if release >= (1, 3) else "",
                key=env.get("NGC_API_KEY", ""),
                cache=Path(env.get("NIM_CACHE_PATH") or "/opt/nim/.cache"),
                served=tuple(name.strip() for name in (env.get("NIM_SERVED_MODEL_NAME") or model).split(",")),
                port=int(env.get("NIM_SERVER_PORT") or 8000),
                level=env.get("NIM_LOG_LEVEL") or ("WARNING" if release >= (2,) else "DEFAULT"),
                trusted=_trusted(release, env),
                profile=env.get("NIM_MODEL_PROFILE", ""),
                gpus=None if devices in ("", "all", "none", "void") else len(devices.split(",")),
                max_model_len=int(env.get("NIM_MAX_MODEL_LEN") or MAX_MODEL_LEN),
                load_seconds=float(env.get("NIM_STANDIN_LOAD_SECONDS") or 1),
                fail=fail,
                fail_seconds=float(seconds or 0),
            )
        except ValueError as error:
            raise Failure(f"ValueError: {error}") from error

    @property
    def version(self) -> str:
        return ".".join(map(str, self.release))

    @property
    def second_line(self) -> bool:
        """2.x: nginx in front, one engine, other words."""
        return self.release >= (2,)

    @property
    def opens_early(self) -> bool:
        """The port is open while the model loads; before 1.3 it was closed until then."""
        return self.release >= (1, 3)

    @property
    def metrics_path(self) -> str:
        return "/metrics" if self.release < (1, 1) else "/v1/metrics"

    @property
    def repository(self) -> str:
        return f"nim/{self.model}"

    @property
    def uri(self) -> str:
        return f"ngc://{self.repository}:{MODEL_VERSION}"


class Log:
    """Lines as the release line writes them."""

    _RANKS = ("TRACE", "DEBUG", "DEFAULT", "INFO", "WARNING", "ERROR", "CRITICAL")

    def __init__(self, settings: Settings) -> None:
        self._second = settings.second_line
        self._least = self._rank(settings.level.upper())

    def _rank(self, level: str) -> int:
        return self._RANKS.index(level if level in self._RANKS else "DEFAULT")

    def __call__(self, where: str, text: str, level: str = "INFO") -> None:
        if self._rank(level) < self._least:
            return
        now = time.time()
        clock, milliseconds = time.localtime(now), int(now * 1000) % 1000
        if self._second:
            say(f"{time.strftime('%Y-%m-%d %H:%M:%S', clock)},{milliseconds:03d} {level} {where}] {text}")
        else:
            say(f"{level} {time.strftime('%m-%d %H:%M:%S', clock)}.{milliseconds:03d} {where}] {text}")


def say(text: str) -> None:
    # one write a line: lines of several threads don't mix, and nothing waits in a buffer when the kernel kills us
    os.write(1, text.encode() + b"\n")


# --- profiles ---------------------------------------------------------------------------------------------------------
_KNOWN_PROFILES = {
    ("meta/llama3-8b-instruct", "vllm-fp16-tp1"): "8835c31752fbc67ef658b20a9f78e056914fdef0660206d82f252d62fd96064d",
    ("meta/llama3-8b-instruct", "vllm-fp16-tp2"): "19031a45cf096b683c4d66fff2a072c0e164a24f19728a58771ebfc4c9ade44f",
}


@dataclass(frozen=True)
class Profile:
    id: str
    name: str
    tp: int


def profiles(settings: Settings) -> list[Profile]:
    found = []
    for tp in (1, 2, 4, 8):
        name = f"vllm-fp16-tp{tp}" + "-pp1" * settings.second_line
        made_up = hashlib.sha256(f"{settings.model}:{settings.release[0]}:{name}".encode()).hexdigest()
        found.append(Profile(_KNOWN_PROFILES.get((settings.model, name), made_up), name, tp))
    return found


def _system_information(busy: bool) -> str:
    gpu = "  -  [2236:10de] (0) NVIDIA A10 (A10) [current utilization: {}%]"
    if busy:
        return f"SYSTEM INFO\n- Free GPUs: <None>\n- Non-free GPUs:\n{gpu.format(85)}"
    return f"SYSTEM INFO\n- Free GPUs:\n{gpu.format(1)}"


def choose_profile(settings: Settings, log: Log) -> Profile:
    """Raises Failure when none fits."""
    if settings.fail in ("profile", "gpu-busy", "lora"):
        found = None
    elif settings.profile:
        found = next((one for one in profiles(settings) if settings.profile in (one.id, one.name)), None)
        if found and settings.gpus is not None and found.tp > settings.gpus:
            found = None
    else:
        found = next(one for one in reversed(profiles(settings)) if one.tp <= (settings.gpus or 1))
    if settings.fail == "lora":
        log("ngc_profile.py:215", "Running NIM with LoRA. Only looking for compatible profiles that support LoRA.")
        log("ngc_profile.py:219", "Detected 0 compatible profile(s).")
    if not found and settings.second_line:
        raise Failure(
            "nim.errors.ProfileError: Could not match a profile in manifest\n"
            + _system_information(settings.fail == "gpu-busy")
        )
    if not found:
        raise Failure(
            "Could not find a profile that is currently runnable with the detected hardware. Please check the system "
            "information below and make sure you have enough free GPUs.\n"
            + _system_information(settings.fail == "gpu-busy")
        )
    if settings.second_line:
        log("nim.profiles", f"Matched profile_id in manifest: {found.id} ({found.name})")
        return found
    said = "Running NIM without LoRA. Only looking for compatible profiles that do not support LoRA."
    log("ngc_profile.py:217", said)
    log("ngc_profile.py:219", "Detected 1 compatible profile(s).")
    log("ngc_injector.py:106", f"Valid profile: {found.id} ({found.name}) on GPUs {list(range(found.tp))}")
    log("ngc_injector.py:141", f"Selected profile: {found.id} ({found.name})")
    for name, value in (("llm_engine", "vllm"), ("precision", "fp16"), ("feat_lora", "false"), ("tp", found.tp)):
        log("ngc_injector.py:146", f"Profile metadata: {name}: {value}")
    return found


# --- the model: from NGC into the cache -------------------------------------------------------------------------------
def _trusted(release: tuple[int, ...], env: Mapping[str, str]) -> str:
    """The file of the CAs. The downloader of 1.3 and later looks at the system's, or one in its place, only if told."""
    own = env.get("SSL_CERT_FILE", "")
    return own if own and (release < (1, 3) or env.get("NIM_SDK_USE_NATIVE_TLS") == "1") else SYSTEM_CA


def _connect(server: SplitResult, trusted: str, timeout: float) -> http.client.HTTPConnection:
    if server.scheme != "https":
        return http.client.HTTPConnection(server.netloc, timeout=timeout)
    context = ssl.create_default_context(cafile=trusted)
    return http.client.HTTPSConnection(server.netloc, timeout=timeout, context=context)


class Ngc:
    """Downloads as NIM's own downloader does, and fails in its words."""

    def __init__(self, settings: Settings, log: Log) -> None:
        self._settings, self._log = settings, log
        org, team, model = settings.repository.split("/")
        self._path = f"/v2/org/{org}/team/{team}/models/{model}/{MODEL_VERSION}/files"
        self._server = urlsplit(settings.override or settings.ngc_url)
        self._shown = settings.override or NGC
        self._connection: http.client.HTTPConnection | None = None

    def files(self) -> list[dict[str, Any]]:
        listing = json.loads(self._ask("").read())
        files: list[dict[str, Any]] = listing["modelFiles"]
        return files

    def content(self, path: str, start: int) -> http.client.HTTPResponse:
        return self._ask(f"/{path}", {"Range": f"bytes={start}-"} if start else {})

    def _ask(self, path: str, more: Mapping[str, str] | None = None) -> http.client.HTTPResponse:
        """Raises Failure when NGC refuses or can't be reached, after some patience with 429 and 5xx."""
        url = self._shown + self._path + path
        headers = dict(more or {})
        if self._settings.key:
            if any(ord(letter) < 32 or ord(letter) > 126 for letter in self._settings.key):
                raise self._failure("InvalidHeaderValue")
            headers["Authorization"] = f"Bearer {self._settings.key}"
        for pause in (0.2, 0.6, None):
            try:
                response = self._send(self._path + path, headers)
            except (OSError, http.client.HTTPException) as error:
                self._connection = None
                cause = f"error sending request for url ({url}): {self._cause(error)}"
                self._log("nim_sdk::hub::repo rust/nim-sdk/src/hub/repo.rs:119", cause, "ERROR")
                raise self._failure(f'"{cause}"') from error
            if response.status < 400:
                return response
            response.read()
            if pause is None or not (response.status == 429 or response.status >= 500):
                break
            time.sleep(pause)
        if response.status == 401 and not self._settings.key:
            raise Failure("Exception: The requested operation requires an API key, but none was found")
        side = "client" if response.status < 500 else "server"
        raise self._failure(f'"HTTP status {side} error ({response.status} {response.reason}) for url ({url})"')

    def _send(self, path: str, headers: Mapping[str, str]) -> http.client.HTTPResponse:
        forced: dict[str, OSError] = {
            "dns": socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"),
            "ca": ssl.SSLCertVerificationError("unable to get local issuer certificate"),
            "proxy": ConnectionAbortedError("tunnel error: unsuccessful (407 Proxy Authentication Required)"),
        }
        if self._settings.fail in forced:
            raise forced[self._settings.fail]
        if self._connection is None:
            self._connection = _connect(self._server, self._settings.trusted, timeout=60)
        self._connection.request("GET", path, headers=dict(headers))
        return self._connection.getresponse()

    @staticmethod
    def _cause(error: Exception) -> str:
        if isinstance(error, socket.gaierror):
            return f"dns error: failed to lookup address information: {error.strerror}"
        if isinstance(error, ssl.SSLCertVerificationError):
            return "invalid peer certificate: UnknownIssuer"
        if isinstance(error, TimeoutError):
            return "operation timed out"
        if isinstance(error, OSError) and error.errno:
            return f"tcp connect error: {_os_error(error)}"
        return str(error)

    def _failure(self, source: str) -> Failure:
        chain = (
            f'Error {{ context: "initializing ngc repo from repo_id: {self._settings.uri}", source: CommonError(Error '
            f'{{ context: "fetching file map with bearer token", source: {source} }}) }}'
        )
        if self._settings.second_line:
            return Failure(f"nim_sdk.ManifestDownloadError: Error downloading manifest: {chain}")
        return Failure(f"Exception: {chain}")


def _os_error(error: OSError) -> str:
    return f"{os.strerror(error.errno or 0)} (os error {error.errno})"


def _human(size: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.2f} {unit}" if unit != "B" else f"{size:.0f} B"
        size /= 1024
    return f"{size:.2f} GiB"


class Cache:
    """One model in the layout of the hub: blobs by content, snapshots of links to them, and a ref once all is there."""

    def __init__(self, settings: Settings, log: Log) -> None:
        self._settings, self._log = settings, log
        self._root = settings.cache / "ngc" / "hub" / ("models--" + settings.repository.replace("/", "--"))
        self.snapshot = self._root / "snapshots" / MODEL_VERSION
        self._ref = self._root / "refs" / "main"

    def filled(self) -> bool:
        try:
            return self._ref.is_file() and all(path.exists() for path in self.snapshot.iterdir())
        except OSError:
            return False

    def not_writable(self) -> OSError | None:
        probe = self._settings.cache / f".probe-{socket.gethostname()}-{os.getpid()}"
        try:
            self._settings.cache.mkdir(parents=True, exist_ok=True)
            probe.touch()
            probe.unlink()
        except OSError as error:
            return error
        return None

    def fill(self, ngc: Ngc) -> None:
        """Bring what is missing; goes on where an earlier start was cut off. Raises Failure."""
        files = ngc.files()
        name = files[0]["path"]
        try:
            for folder in (self._root / "blobs", self.snapshot, self._ref.parent):
                folder.mkdir(parents=True, exist_ok=True)
            for file in files:
                name = file["path"]
                self._fetch(ngc, name, file["etag"], file["sizeInBytes"])
                link = self.snapshot / name
                if not link.exists():
                    link.unlink(missing_ok=True)
                    link.symlink_to(f"../../blobs/{file['etag']}")
            if not self._ref.exists():
                self._ref.write_text(MODEL_VERSION)
        except OSError as error:
            raise self.refusal(error, name) from error

    def refusal(self, error: OSError, name: str = "config.json") -> Failure:
        """How NIM says that it can't write there."""
        if error.errno == errno.EROFS and self._settings.release >= (1, 1):
            return Failure(f"RuntimeError: Unable to write to NIM_CACHE_PATH ({self._settings.cache})")
        if error.errno == errno.EROFS:
            return Failure(
                f'Exception: Errors fetching files: issue a download request for file: "{name}"; '
                "the repo file list has not been validated"
            )
        if self._settings.second_line:
            return Failure(f"nim_sdk.ManifestDownloadError: Error downloading manifest: I/O error: {_os_error(error)}")
        return Failure(f"Exception: One or more errors fetching files:\n{name}: {_os_error(error)}")

    def _fetch(self, ngc: Ngc, name: str, etag: str, size: int) -> None:
        blob = self._root / "blobs" / etag
        if blob.exists():
            return
        with open(f"{blob}.incomplete", "ab") as part:
            fcntl.flock(part, fcntl.LOCK_EX)  # another pod may be filling the same volume
            if blob.exists():
                return
            done = begun_at = part.seek(0, os.SEEK_END)
            begun = shown = time.monotonic()
            if done < size:
                response = ngc.content(name, done)
                while block := response.read(1 << 18):
                    if self._settings.fail == "cache-full" and size > 1 << 16:
                        raise OSError(errno.ENOSPC, "forced")
                    part.write(block)
                    done += len(block)
                    if time.monotonic() - shown > 1:
                        shown = time.monotonic()
                        self._show(name, done, size, done - begun_at, shown - begun)
                part.flush()
            if done != size:
                raise OSError(errno.EIO, f"{name} ended after {done} of {size} bytes")
            os.replace(part.name, blob)
        self._show(name, done, size, done - begun_at, time.monotonic() - begun)

    def _show(self, name: str, done: int, size: int, fetched: int, seconds: float) -> None:
        rate = fetched / max(seconds, 1e-3)
        left = (size - done) / max(rate, 1)
        filled = 40 * done // max(size, 1)
        clock = time.strftime("%H:%M:%S", time.gmtime(seconds))
        text = f"[{clock}] [{'█' * filled}{'░' * (40 - filled)}] {_human(done)}/{_human(size)} {_human(rate)}/s"
        if self._settings.second_line:
            self._log("nim_sdk.hub", f"{name} {text} ({left:.0f}s)")
        else:
            say(f"{name} {text} ({left:.0f}s)")


def prepare_model(settings: Settings, log: Log) -> None:
    """Have the model in the cache. Raises Failure."""
    where = "nim_sdk.hub" if settings.second_line else "ngc_injector.py:166"
    log(where, "Preparing model workspace. This step might download additional files to run the model.")
    begun = time.monotonic()
    cache = Cache(settings, log)
    problem = cache.not_writable()
    if settings.fail == "links-lost":
        raise Failure(
            f"OSError: {cache.snapshot} does not appear to have a file named config.json. Checkout "
            f"'https://huggingface.co/{cache.snapshot}/None' for available files."
        )
    read_only = f"{settings.cache} is read-only, application may fail if model is not already present in cache"
    if problem and cache.filled():
        log("caches.py:30", read_only, "WARNING")
    elif problem:
        if problem.errno == errno.EROFS and settings.release < (1, 1):
            log("caches.py:30", read_only, "WARNING")
        raise cache.refusal(problem)
    elif settings.key or not cache.filled():
        # with a key NGC is asked even when the cache is full: the real one hangs or fails there behind an air gap
        cache.fill(Ngc(settings, log))
    log(where, f"Model workspace is now ready. It took {time.monotonic() - begun:.3f} seconds")


# --- starting ---------------------------------------------------------------------------------------------------------
def check_machine(settings: Settings) -> None:
    """The failures before anything else happens. Raises Failure."""
    if settings.fail == "driver":
        say(
            "ERROR: This container was built for NVIDIA Driver Release 550.54 or later, but\n"
            "       version 470.82.01 was detected and compatibility mode is UNAVAILABLE.\n"
        )
        raise Failure(
            "RuntimeError: Unexpected error from cudaGetDeviceCount(). Did you run some cuda functions before calling "
            "NumCudaDevices() that might have already set an error? Error 803: system has unsupported display driver / "
            "cuda driver combination"
        )
    if settings.fail == "nvml":
        say("WARNING: The NVIDIA Driver was not detected.  GPU functionality will not be available.")
        say("Failed to initialize NVML: Unknown Error")
        raise Failure("ImportError: libcuda.so.1: cannot open shared object file: No such file or directory")
    if settings.fail == "crash":
        raise Failure("RuntimeError: the stand-in was told to crash")


def load_model(settings: Settings, log: Log) -> None:
    """Take the time that loading takes. Raises Failure."""
    engine = "nim.engine" if settings.second_line else "llm_engine.py:98"
    config = f"model='{settings.model}', max_seq_len={settings.max_model_len}"
    log(engine, f"Initializing an LLM engine with config: {config}")
    if settings.fail == "nccl-shm":
        say(
            "node:71:71 [0] misc/shmutils.cc:72 NCCL WARN Error while creating shared memory segment "
            "/dev/shm/nccl-7Y1Bzt (size 9637888), error: No space left on device (28)"
        )
        raise Failure("torch.distributed.DistBackendError: NCCL error: unhandled system error")
    if settings.fail == "bus-error":
        say(
            "ERROR: Unexpected bus error encountered in worker. This might be caused by insufficient shared memory "
            "(shm)."
        )
        raise Failure("RuntimeError: DataLoader worker (pid 104) is killed by signal: Bus error.")
    if settings.fail == "p2p-cache":
        path = settings.cache / "vllm" / "vllm" / "gpu_p2p_access_cache_for_0,1.json"
        raise Failure(f"OSError: [Errno 30] Read-only file system: '{path}'")
    if settings.fail == "ecc":
        raise Failure("RuntimeError: CUDA error: uncorrectable ECC error encountered")
    if settings.fail == "oom":
        take_all_memory()
    if settings.fail == "cuda-oom":
        raise Failure(
            "torch.cuda.OutOfMemoryError: CUDA out of memory. Tried to allocate 112.00 MiB. GPU 0 has a total capacity "
            "of 21.98 GiB of which 59.38 MiB is free. Including non-PyTorch memory, this process has 21.91 GiB memory "
            "in use."
        )
    if settings.fail == "trt-oom":
        say("[TensorRT-LLM][ERROR] 2: [virtualMemoryBuffer.cpp::resizePhysical::154] Error Code 2: OutOfMemory")
        raise Failure("RuntimeError: [TensorRT-LLM][ERROR] Assertion failed: can't allocate the engine's memory")
    if settings.fail == "kv-cache-none":
        raise Failure(
            "ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization` when "
            "initializing the engine."
        )
    if settings.fail == "kv-cache" and settings.max_model_len > 4848:
        if settings.second_line:
            raise Failure(
                f"ValueError: To serve at least one request with the models's max seq len ({settings.max_model_len}), "
                "(1.00 GiB KV cache is needed, which is larger than the available KV cache memory (0.59 GiB). Based on "
                "the available memory, the estimated maximum model length is 4848. Try increasing "
                "`gpu_memory_utilization` or decreasing `max_model_len` when initializing the engine."
            )
        raise Failure(
            f"ValueError: The model's max seq len ({settings.max_model_len}) is larger than the maximum number of "
            "tokens that can be stored in KV cache (4848). Try increasing `gpu_memory_utilization` or decreasing "
            "`max_model_len` when initializing the engine."
        )
    time.sleep(settings.load_seconds + (settings.fail_seconds if settings.fail == "slow" else 0))
    while settings.fail == "hang":
        signal.pause()


def take_all_memory() -> NoReturn:
    limits = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
    found = [int(text) for path in limits if os.path.exists(path) and (text := Path(path).read_text().strip()) != "max"]
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if min(found, default=whole) >= whole:
        say("no memory limit is set: the whole machine would suffer, so this only ends as if it had")
        os.kill(os.getpid(), signal.SIGKILL)
    taken = []
    while True:
        taken.append(b"\1" * (16 << 20))


# --- metrics ----------------------------------------------------------------------------------------------------------
_TOKENS = (*(digit * 10.0**power for power in range(5) for digit in (1, 2, 5)), 100000.0)
_BUCKETS: dict[str, tuple[float, ...]] = {
    "time_to_first_token_seconds": (
        *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1),
        *(0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10),
    ),
    "time_per_output_token_seconds": (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5),
    "e2e_request_latency_seconds": (1, 2.5, 5, 10, 15, 20, 30, 40, 50, 60),
    "request_prompt_tokens": _TOKENS,
    "request_generation_tokens": _TOKENS,
}


class Metrics:
    """What was really served, under the names of the release line."""

    def __init__(self, settings: Settings) -> None:
        self._second = settings.second_line
        self._labels = f'model_name="{settings.served[0]}"'
        if self._second:
            self._labels = 'engine="0",' + self._labels
        self._lock = threading.Lock()
        self._begun = time.time()
        self.running = 0
        self.waiting = 0
        self._tokens = {"prompt_tokens_total": 0, "generation_tokens_total": 0}
        self._finished = {"stop": 0, "length": 0}
        self._failed = 0
        self._observed: dict[str, list[float]] = {name: [0.0] * (len(les) + 1) for name, les in _BUCKETS.items()}
        self._sums = dict.fromkeys(_BUCKETS, 0.0)

    def move(self, running: int = 0, waiting: int = 0, failed: int = 0) -> None:
        with self._lock:
            self.running += running
            self.waiting += waiting
            self._failed += failed

    def finish(self, reason: str, prompt: int, generated: int, first: float, whole: float) -> None:
        """One answered request; first and whole in seconds."""
        with self._lock:
            self._tokens["prompt_tokens_total"] += prompt
            self._tokens["generation_tokens_total"] += generated
            self._finished[reason] += 1
            self._observe("time_to_first_token_seconds", first)
            if generated > 1:
                self._observe("time_per_output_token_seconds", (whole - first) / (generated - 1))
            self._observe("e2e_request_latency_seconds", whole)
            self._observe("request_prompt_tokens", prompt)
            self._observe("request_generation_tokens", generated)

    def _observe(self, name: str, value: float) -> None:
        self._sums[name] += value
        bucket = next((at for at, le in enumerate(_BUCKETS[name]) if value <= le), -1)
        self._observed[name][bucket] += 1

    def text(self) -> str:
        with self._lock:
            return "".join(self._lines())

    def _lines(self) -> Iterator[str]:
        prefix = "vllm:" if self._second else ""

        def series(name: str, kind: str, values: Iterable[tuple[str, str, float]]) -> Iterator[str]:
            # exposition format: a counter's TYPE line goes by the name that its samples have
            yield f"# HELP {prefix}{name} {name.replace('_', ' ')}\n# TYPE {prefix}{name} {kind}\n"
            for suffix, labels, value in values:
                yield f"{prefix}{name}{suffix}{{{labels}{self._labels}}} {float(value)}\n"

        usage = min(1.0, self.running / REQUESTS_AT_ONCE)
        yield from series("num_requests_running", "gauge", [("", "", self.running)])
        yield from series("num_requests_waiting", "gauge", [("", "", self.waiting)])
        yield from series("kv_cache_usage_perc" if self._second else "gpu_cache_usage_perc", "gauge", [("", "", usage)])
        for name, tokens in self._tokens.items():
            yield from series(name, "counter", [("", "", tokens)])
        reasons = [("", f'finished_reason="{reason}",', count) for reason, count in self._finished.items()]
        yield from series("request_success_total" if self._second else "request_finish_total", "counter", reasons)
        if not self._second:
            yield from series("num_request_max", "gauge", [("", "", REQUESTS_AT_ONCE)])
            yield from series("request_success_total", "counter", [("", "", sum(self._finished.values()))])
            yield from series("request_failure_total", "counter", [("", "", self._failed)])
        for name, les in _BUCKETS.items():
            counts, rows, total = self._observed[name], [], 0.0
            for le, count in zip([*map(str, map(float, les)), "+Inf"], counts, strict=True):
                total += count
                rows.append(("_bucket", f'le="{le}",', total))
            yield from series(name, "histogram", [*rows, ("_count", "", total), ("_sum", "", self._sums[name])])
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        for name, value in (("start_time_seconds", self._begun), ("resident_memory_bytes", resident)):
            yield f"# TYPE process_{name} gauge\nprocess_{name} {float(value)}\n"


# --- answers ----------------------------------------------------------------------------------------------------------
class Refusal(Exception):
    """An HTTP error for the client."""

    def __init__(self, status: int, kind: str, message: str) -> None:
        super().__init__(message)
        self.status, self.kind, self.message = status, kind, message


def _invalid(message: str) -> Refusal:
    return Refusal(400, "BadRequestError", message)


def _text(content: object) -> str:
    if isinstance(content, list):  # parts, as of the OpenAI API
        return " ".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    if not isinstance(content, str):
        raise _invalid("content must be a string or a list of parts")
    return content


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def _vector(text: str, input_type: str) -> list[float]:
    raw = hashlib.shake_256(f"{input_type}:{text}".encode()).digest(2 * DIMENSIONS)
    numbers = [value / 32768 for value in struct.unpack(f"<{DIMENSIONS}h", raw)]
    length = math.sqrt(sum(value * value for value in numbers))
    return [value / length for value in numbers]


class Service:
    """The model, so to speak."""

    def __init__(self, settings: Settings, profile: Profile, log: Log) -> None:
        self.settings, self.profile, self.log = settings, profile, log
        self.metrics = Metrics(settings)
        self._slots = threading.BoundedSemaphore(REQUESTS_AT_ONCE)
        self._ready_at: float | None = None

    def become_ready(self) -> None:
        self._ready_at = time.monotonic()

    @property
    def ready(self) -> bool:
        if self._ready_at is None:
            return False
        return self.settings.fail != "unhealthy-after" or time.monotonic() < self._ready_at + self.settings.fail_seconds

    def __enter__(self) -> None:
        """One inference; more than fit at once wait."""
        if self.settings.fail == "xid":
            say("NVRM: Xid (PCI:0000:00:07): 31, pid=71, MMU Fault: ENGINE GRAPHICS GPCCLIENT_T1_0 faulted")
            say("RuntimeError: CUDA error: an illegal memory access was encountered")
            os._exit(1)
        self.metrics.move(waiting=1)
        self._slots.acquire()
        self.metrics.move(waiting=-1, running=1)

    def __exit__(self, *_: object) -> None:
        self.metrics.move(running=-1)
        self._slots.release()

    def check_model(self, body: Mapping[str, Any]) -> str:
        model = body.get("model")
        if not isinstance(model, str):
            raise _invalid("[{'type': 'missing', 'loc': ('body', 'model'), 'msg': 'Field required'}]")
        if model not in self.settings.served:
            raise Refusal(404, "NotFoundError", f"The model `{model}` does not exist.")
        return model

    def words(self, asked: object, count: int, last: str) -> list[str]:
        """The answer: who answers, and what was asked."""
        return (
            f"I am {self.settings.served[0]}, release {self.settings.version}, on {socket.gethostname()}. "
            f"You sent {count} message{'s' * (count != 1)}, digest {_digest(asked)}. You said: {last}"
        ).split()

    def embeddings(self, body: Mapping[str, Any]) -> dict[str, Any]:
        model = self.check_model(body)
        texts = [body["input"]] if isinstance(body.get("input"), str) else body.get("input")
        if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
            raise Refusal(422, "invalid_request_error", "'input' must be a string or a list of strings")
        if body.get("input_type") not in ("query", "passage"):
            raise Refusal(422, "invalid_request_error", "'input_type' parameter is required: 'query' or 'passage'")
        data = []
        for index, text in enumerate(texts):
            numbers = _vector(text, body["input_type"])
            vector: object = numbers
            if body.get("encoding_format") == "base64":
                vector = base64.b64encode(struct.pack(f"<{DIMENSIONS}f", *numbers)).decode()
            data.append({"index": index, "object": "embedding", "embedding": vector})
        tokens = sum(len(text.split()) for text in texts)
        self.metrics.finish("stop", tokens, 0, 0, 0)
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return {"object": "list", "model": model, "data": data, "usage": usage}

    def ranking(self, body: Mapping[str, Any]) -> dict[str, Any]:
        self.check_model(body)
        try:
            query = set(body["query"]["text"].lower().split())
            passages = [passage["text"].lower().split() for passage in body["passages"]]
        except (KeyError, TypeError, AttributeError) as error:
            message = "'query' needs 'text', 'passages' is a list of objects with 'text'"
            raise Refusal(422, "invalid_request_error", message) from error
        logits = [2.0 * len(query.intersection(words)) - 4.0 - 0.01 * len(words) for words in passages]
        order = sorted(range(len(logits)), key=lambda index: -logits[index])
        tokens = len(query) + sum(map(len, passages))
        self.metrics.finish("stop", tokens, 0, 0, 0)
        return {
            "rankings": [{"index": index, "logit": logits[index]} for index in order],
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "nim-standin"
    disable_nagle_algorithm = True

    service: Service

    def do_GET(self) -> None:
        self._handle(self._get)

    def do_POST(self) -> None:
        self._handle(self._post)

    def _handle(self, work: Callable[[str], None]) -> None:
        path = urlsplit(self.path).path
        try:
            work(path)
        except Refusal as refusal:
            if self.command == "POST":
                self.service.metrics.move(failed=1)
            self._refuse(refusal)
        except (ConnectionError, TimeoutError):
            self.close_connection = True

    # --- GET
    def _get(self, path: str) -> None:
        service, settings = self.service, self.service.settings
        if path == "/v1/health/live":
            return self._answer(200, self._health("live"))
        if path == "/v1/health/ready":
            if not service.ready:
                raise Refusal(503, "ServiceUnavailable", "Service is not ready.")
            return self._answer(200, self._health("ready"))
        if not service.ready and path.startswith("/v1/"):
            raise Refusal(503, "ServiceUnavailable", "Service is not ready.")
        if path == settings.metrics_path:
            return self._answer(200, service.metrics.text(), "text/plain; version=0.0.4; charset=utf-8")
        pages: dict[str, Callable[[], object]] = {
            "/v1/models": self._models,
            "/v1/version": lambda: {"release": settings.version, "api": settings.version},
            "/v1/metadata": self._metadata,
            "/v1/manifest": lambda: {"manifest_file": "model_manifest.yaml", "repository": settings.uri},
            "/v1/license": lambda: self._licence() | {"content": "This is a stand-in. It holds no NVIDIA software."},
        }
        if path not in pages:
            raise Refusal(404, "", "Not Found")
        return self._answer(200, pages[path]())

    def _health(self, word: str) -> dict[str, str]:
        body = {"object": "health.response", "message": f"Service is {word}."}
        return body | {"status": word} if self.service.settings.second_line else body

    def _models(self) -> dict[str, Any]:
        permission = {"id": "modelperm-standin", "object": "model_permission", "allow_sampling": True}
        return {
            "object": "list",
            "data": [
                {
                    "id": name,
                    "object": "model",
                    "created": int(self.service.metrics._begun),
                    "owned_by": "system",
                    "root": name,
                    "parent": None,
                    "permission": [permission],
                }
                for name in self.service.settings.served
            ],
        }

    def _metadata(self) -> dict[str, Any]:
        settings = self.service.settings
        body = {
            "version": settings.version,
            "modelInfo": [{"shortName": settings.uri.rpartition("/")[2], "modelUrl": settings.uri}],
            "assetInfo": [],
            "licenseInfo": self._licence(),
        }
        if settings.release >= (1, 3):
            body |= {"repository_override": settings.override, "selectedModelProfileId": self.service.profile.id}
        return body

    def _licence(self) -> dict[str, str]:
        return {"name": "NVIDIA AI PRODUCT AGREEMENT", "path": "/opt/nim/LICENSE", "sha": "", "type": "file", "url": ""}

    # --- POST
    def _post(self, path: str) -> None:
        raw = self._body()
        service = self.service
        kinds: dict[str, tuple[str, Callable[[dict[str, Any]], None]]] = {
            "/v1/chat/completions": ("chat", self._chat),
            "/v1/completions": ("chat", self._completion),
            "/v1/embeddings": ("embedding", lambda body: self._answer(200, service.embeddings(body))),
            "/v1/ranking": ("ranking", lambda body: self._answer(200, service.ranking(body))),
        }
        kind, work = kinds.get(path, ("", self._chat))
        if kind != service.settings.kind:
            raise Refusal(404, "", "Not Found")
        if not service.ready:
            raise Refusal(503, "ServiceUnavailable", "Service is not ready.")
        try:
            body = json.loads(raw)
        except ValueError as error:
            raise _invalid(f"[{{'type': 'json_invalid', 'msg': 'JSON decode error', 'ctx': '{error}'}}]") from error
        if not isinstance(body, dict):
            raise _invalid("the body must be a JSON object")
        with service:
            work(body)

    def _chat(self, body: dict[str, Any]) -> None:
        model = self.service.check_model(body)
        messages = body.get("messages")
        if not isinstance(messages, list) or not messages or not all(isinstance(one, dict) for one in messages):
            raise _invalid("[{'type': 'missing', 'loc': ('body', 'messages'), 'msg': 'Field required'}]")
        texts = [_text(message.get("content")) for message in messages]
        words = self.service.words(messages, len(messages), texts[-1])
        prompt = sum(len(text.split()) + 3 for text in texts)

        def choice(text: str, first: bool, whole: bool, reason: str | None) -> dict[str, Any]:
            if whole:
                return {"message": {"role": "assistant", "content": text}}
            return {"delta": ({"role": "assistant"} if first else {}) | ({"content": text} if reason is None else {})}

        self._generate(body, model, words, prompt, "chat.completion", "chat.completion.chunk", choice)

    def _completion(self, body: dict[str, Any]) -> None:
        model = self.service.check_model(body)
        asked = body.get("prompt")
        if not isinstance(asked, str):
            raise _invalid("[{'type': 'missing', 'loc': ('body', 'prompt'), 'msg': 'Field required'}]")
        words = self.service.words(asked, 1, asked)

        def choice(text: str, first: bool, whole: bool, reason: str | None) -> dict[str, Any]:
            return {"text": text}

        self._generate(body, model, words, len(asked.split()), "text_completion", "text_completion", choice)

    def _generate(
        self,
        body: dict[str, Any],
        model: str,
        words: list[str],
        prompt: int,
        whole_object: str,
        chunk_object: str,
        choice: Callable[[str, bool, bool, str | None], dict[str, Any]],
    ) -> None:
        begun = time.monotonic()
        limit = body.get("max_tokens") or body.get("max_completion_tokens") or len(words)
        if not isinstance(limit, int) or limit < 1:
            raise _invalid("max_tokens must be at least 1")
        reason = "length" if limit < len(words) else "stop"
        words = words[:limit]
        usage = {"prompt_tokens": prompt, "total_tokens": prompt + len(words), "completion_tokens": len(words)}
        chat = whole_object.startswith("chat") and self.service.settings.second_line
        common = {
            "id": ("chatcmpl-" if chat else "cmpl-") + os.urandom(16).hex(),
            "created": int(time.time()),
            "model": model,
        }

        def choices(text: str, first: bool = False, whole: bool = False, end: str | None = None) -> list[object]:
            # Llama 3's end of turn
            stop = 128009 if end == "stop" and not self.service.settings.second_line else None
            part = choice(text, first, whole, end)
            return [{"index": 0, **part, "logprobs": None, "finish_reason": end, "stop_reason": stop}]

        time.sleep(FIRST_TOKEN_SECONDS)
        if not body.get("stream"):
            time.sleep(TOKEN_SECONDS * (len(words) - 1))
            answer: dict[str, Any] = {"object": whole_object, "usage": usage}
            answer["choices"] = choices(" ".join(words), whole=True, end=reason)
            self._count(reason, usage, begun + FIRST_TOKEN_SECONDS, begun)
            self._answer(200, common | answer)
            return
        common["object"] = chunk_object
        self._begin_stream()
        first = time.monotonic()
        for at, word in enumerate(words):
            if at:
                time.sleep(TOKEN_SECONDS)
            self._event(common | {"choices": choices(" " * bool(at) + word, first=at == 0)})
        self._event(common | {"choices": choices("", end=reason)})
        if (body.get("stream_options") or {}).get("include_usage"):
            self._event(common | {"choices": [], "usage": usage})
        self._count(reason, usage, first, begun)
        self._event("[DONE]")
        self._end_stream()

    def _count(self, reason: str, usage: Mapping[str, int], first: float, begun: float) -> None:
        tokens = usage["prompt_tokens"], usage["completion_tokens"]
        self.service.metrics.finish(reason, *tokens, first - begun, time.monotonic() - begun)

    # --- plumbing
    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", "").lower():
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return body

    def _begin_stream(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self._chunked = self.request_version == "HTTP/1.1"
        if self._chunked:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.close_connection = True
        self.end_headers()

    def _event(self, value: object) -> None:
        data = b"data: %b\n\n" % (value if isinstance(value, str) else json.dumps(value)).encode()
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)

    def _end_stream(self) -> None:
        if self._chunked:
            self.wfile.write(b"0\r\n\r\n")

    def _refuse(self, refusal: Refusal) -> None:
        if not refusal.kind:  # the router's own
            body: dict[str, Any] = {"detail": refusal.message}
        elif self.service.settings.second_line:
            error = {"message": refusal.message, "type": refusal.kind, "param": None, "code": refusal.status}
            body = {"error": error}
        else:
            body = {"object": "error", "message": refusal.message, "type": refusal.kind}
            body |= {"param": None, "code": refusal.status}
        self._answer(refusal.status, body)

    def _answer(self, status: int, value: object, content_type: str = "application/json") -> None:
        body = (value if isinstance(value, str) else json.dumps(value)).encode()
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        if not self.path.startswith("/v1/health/"):
            address = f"{self.client_address[0]}:{self.client_address[1]}"
            self.service.log("httptools_impl.py:481", f'{address} - "{self.command} {self.path} HTTP/1.1" {int(code)}')

    def log_message(self, format: str, *args: Any) -> None:
        """log_request says all there is to say."""


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def server_bind(self) -> None:
        # without HTTPServer's look-up of the own name: there may be no name server
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = "nim", self.socket.getsockname()[1]


def serve(service: Service) -> None:
    """Listen from now on. Raises Failure when the port is taken."""
    settings, address = service.settings, ("0.0.0.0", service.settings.port)
    somebody_else = socket.socket()
    try:
        if settings.fail == "port-conflict":
            somebody_else.bind(address)
            somebody_else.listen()
        server = Server(address, type("Bound", (Handler,), {"service": service}))
    except OSError as error:
        if settings.second_line:
            words = f"nginx: [emerg] bind() to {address[0]}:{address[1]} failed (98: Address already in use)"
        else:
            words = f"ERROR: [Errno 98] error while attempting to bind on address {address}: address already in use"
        raise Failure(words if error.errno == errno.EADDRINUSE else str(error)) from error
    threading.Thread(target=server.serve_forever, daemon=True).start()


def run(settings: Settings) -> NoReturn:
    """The life of the container. Raises Failure."""
    title = "NVIDIA Inference Microservice LLM NIM" if settings.kind == "chat" else "NVIDIA Retriever NIM"
    say(f"{'=' * (len(title) + 6)}\n== {title} ==\n{'=' * (len(title) + 6)}\n")
    say(f"{title} Version {settings.version}\nModel: {settings.repository}\n")
    say("A stand-in: it holds no NVIDIA software.\n")
    log = Log(settings)
    check_machine(settings)
    log("api_server.py:489", f"NIM LLM API version {settings.version}")
    profile = choose_profile(settings, log)
    service = Service(settings, profile, log)
    if settings.opens_early:
        serve(service)
    prepare_model(settings, log)
    load_model(settings, log)
    if not settings.opens_early:
        serve(service)
    service.become_ready()
    log("server.py:82", f"Started server process [{os.getpid()}]")
    log("on.py:62", "Application startup complete.")
    log("server.py:214", f"Uvicorn running on http://0.0.0.0:{settings.port} (Press CTRL+C to quit)")
    if settings.fail == "crash-after":
        time.sleep(settings.fail_seconds)
        raise Failure("RuntimeError: the stand-in was told to crash after a while")
    while True:
        signal.pause()


def _leave(*_: object) -> NoReturn:
    say("INFO: Shutting down")
    os._exit(0)


def _told(env: Mapping[str, str]) -> Mapping[str, str]:
    """``env`` with the failure that `python -m rehearsal fault nim` has set, unless the pod names one."""
    if "NIM_STANDIN_FAIL" in env:
        return env
    try:
        connection = _connect(urlsplit(env["NIM_STANDIN_NGC_URL"]), env.get("SSL_CERT_FILE") or SYSTEM_CA, timeout=2)
        connection.request("GET", "/standin/nim")
        return {**env, "NIM_STANDIN_FAIL": json.loads(connection.getresponse().read())["fail"]}
    except (OSError, http.client.HTTPException, ValueError, KeyError):
        return env  # NGC is down or misbehaves, which is rehearsed too


def main() -> int:
    # the first process of a container has no default handlers
    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGINT, _leave)
    try:
        run(Settings.read(_told(os.environ)))
    except Failure as failure:
        if ": " in str(failure).partition("\n")[0]:
            say('Traceback (most recent call last):\n  File "/opt/nim/start_server.py", line 1, in <module>')
        say(str(failure))
        return 1


if __name__ == "__main__":
    sys.exit(main())
