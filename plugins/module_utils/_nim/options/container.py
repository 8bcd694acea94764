# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""Options of NIM's container: image, sizes, devices, variables, command."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .. import contract
from .check import SUBDOMAIN, Check

GPU_MEMORY = "aliyun.com/gpu-mem"  # GiB
GPU_CORE = "aliyun.com/gpu-core.percentage"

PRE_STOP_SLEEP = 5  # seconds

_GPU = re.compile(r"nvidia\.com/|aliyun\.com/gpu")
_ENV_NAME = re.compile(r"[A-Za-z_.-][A-Za-z0-9_.-]*")
_SECRET_KEY = re.compile(r"[A-Za-z0-9._-]{1,253}")


@dataclass(frozen=True)
class SecretKey:
    secret: str
    key: str


def image(check: Check) -> str:
    """Return the image; empty where a serving runtime brings it."""
    given = str(check.params.get("image") or "")
    if not given and check.params.get("model_format"):
        return ""
    if not given:
        check.bad("image", "is missing; for example nvcr.io/nim/meta/llama3-8b-instruct:1.0.0")
        return given
    try:
        parsed = contract.parse_image(given)
    except ValueError as error:
        check.bad("image", str(error))
        return given
    if not parsed.digest and parsed.tag in ("", "latest"):
        check.warnings.append(
            f"image: {given} has no fixed tag, so a restarted pod may bring another version; "
            "write the tag, for example :1.0.3"
        )
    return given


def sizes(check: Check) -> tuple[str, str, str | None]:
    """Return CPU, memory and the size of /dev/shm."""
    p = check.params
    check.quantity("cpu", p.get("cpu"))
    memory = check.quantity("memory", p.get("memory"))
    shared = check.quantity("share_memory", p["share_memory"]) if p.get("share_memory") else None
    if memory and shared and shared >= memory:
        check.warnings.append(
            "share_memory: what is written to /dev/shm counts inside the memory limit, so "
            f"{p['share_memory']} of {p['memory']} "
            "leaves nothing for the model's process once it is full; memory should be larger"
        )
    return str(p["cpu"]), str(p["memory"]), str(p["share_memory"]) if p.get("share_memory") else None


def devices(check: Check) -> dict[str, str]:
    """Return all extended resources with their numbers, GPUs first."""
    given = check.params.get("devices") or {}
    counted = {str(name): _count(check, str(name), count) for name, count in given.items()}
    shared = {
        GPU_MEMORY: _shared(check, "gpu_memory", GPU_MEMORY, counted),
        GPU_CORE: _shared(check, "gpu_core", GPU_CORE, counted),
    }
    if shared[GPU_CORE] % 5:
        check.bad("gpu_core", f"is {shared[GPU_CORE]}; percent of one GPU's compute power, in steps of 5")
    resource = check.resource("gpu_resource", check.params["gpu_resource"])
    otherwise = [name for name in shared if shared[name]] + [name for name in counted if _GPU.match(name)]
    gpus = check.number_or("gpus", 0, 0 if otherwise else 1)
    if gpus > 0 and resource in counted:
        check.bad("devices", f"{resource} is what gpus counts already ({gpus}); leave it in one of them")
    elif gpus > 0 and any(shared.values()):
        check.bad("gpus", f"is {gpus}, but a pod has whole GPUs or a share of one ({otherwise[0]}); leave gpus out")
    return {name: str(count) for name, count in {resource: gpus, **shared, **counted}.items() if count > 0}


def _count(check: Check, name: str, value: Any) -> int:
    check.resource("devices", name)
    if isinstance(value, bool) or not re.fullmatch(r"\d+", str(value)) or int(value) < 1:
        check.bad(f"devices.{name}", f"must be a whole number of 1 or more, is {value!r}")
        return 1
    return int(value)


def _shared(check: Check, option: str, resource: str, counted: Mapping[str, int]) -> int:
    value = check.number_or(option, 0, 0)
    if value and resource in counted:
        check.bad("devices", f"{resource} is what {option} sets already; leave it in one of them")
    return value


def environment(check: Check) -> tuple[dict[str, str], dict[str, SecretKey]]:
    """Return the user's variables, those with values and those from Secrets."""
    env = {}
    for name, raw in (check.params.get("env") or {}).items():
        _env_name(check, "env", name)
        env[str(name)] = check.text("env", name, raw)
    references = {}
    for name, raw in (check.params.get("env_from_secret") or {}).items():
        _env_name(check, "env_from_secret", name)
        reference = _secret_key(check, str(name), raw)
        if reference:
            references[str(name)] = reference
        if name in env:
            check.bad("env_from_secret", f"{name} is also in env; leave it in one of them")
    return env, references


def _env_name(check: Check, option: str, name: Any) -> None:
    if not _ENV_NAME.fullmatch(str(name)):
        check.bad(option, f"{name!r} is not the name of a variable: letters, digits and '_', not starting with a digit")
    elif name == "INFERENCE_SERVICE_NAME":
        check.bad(option, f"{name} can't be set: KServe sets it itself")
    elif name == "PYTHONPATH":
        check.bad(option, f"{name} can't be set: KServe refuses it from 0.18 on, for it could run other code")


def _secret_key(check: Check, name: str, raw: Any) -> SecretKey | None:
    where = f"env_from_secret.{name}"
    if isinstance(raw, Mapping):
        unknown = sorted(set(raw) - {"secret", "key"})
        if unknown or not raw.get("secret"):
            check.bad(
                where,
                (
                    "must be the name of a secret or {secret: NAME, key: "
                    f"KEY}}{', not ' + ', '.join(map(str, unknown)) if unknown else ''}"
                ),
            )
            return None
        reference = SecretKey(str(raw["secret"]), str(raw.get("key") or name))
    elif isinstance(raw, str) and raw:
        reference = SecretKey(raw, name)
    else:
        check.bad(where, "must be the name of a secret or {secret: NAME, key: KEY}")
        return None
    if not SUBDOMAIN.fullmatch(reference.secret):
        check.bad(
            where,
            (
                f"{reference.secret!r} is not a secret's name: lower-case letters, digits, '-' and "
                "'.'; the key itself goes into the secret, see nim_secret"
            ),
        )
        return None
    if not _SECRET_KEY.fullmatch(reference.key):
        check.bad(where, f"{reference.key!r} is not a key of a secret: letters, digits, '-', '_' and '.'")
        return None
    return reference


def pre_stop_sleep(check: Check, grace_period: int) -> int:
    """Return for how long an ending pod goes on answering, in seconds: those who send to it hear of its end later."""
    wanted = check.number_or("pre_stop_sleep", 0, min(PRE_STOP_SLEEP, grace_period))
    if wanted > grace_period >= 0:
        check.bad("pre_stop_sleep", f"is {wanted}, more than the {grace_period} seconds of termination_grace_period")
    return wanted


def command(check: Check) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return command and arguments. A text is for the shell, as arena has it; a list is taken word by word."""
    raw, shell = check.params.get("command"), str(check.params.get("shell") or "")
    if not re.fullmatch(r"[\w./-]+", shell):
        check.bad("shell", f"{shell!r} is not a shell; for example sh, or /bin/bash")
    words: tuple[str, ...] = ()
    if isinstance(raw, str) and raw.strip():
        words = (shell, "-c", raw)
    elif isinstance(raw, (list, tuple)) and raw:
        words = tuple(check.text("command", str(number), word) for number, word in enumerate(raw))
    elif raw is not None:
        check.bad("command", f"must be a text for the shell or a list of words, is {raw!r}")
    return words, tuple(str(word) for word in check.params.get("arguments") or ())
