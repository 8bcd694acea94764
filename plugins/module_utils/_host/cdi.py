# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""Private. CDI specifications of NVIDIA's devices, as nvidia-ctk, the device plugin and the GPU Operator write them."""

from __future__ import annotations

import json
import os
import re
from typing import Any, Optional

from ansible_collections.gpuops.nim.plugins.module_utils._host import driver
from ansible_collections.gpuops.nim.plugins.module_utils._host.host import Host

FOLDERS = ("/etc/cdi", "/run/cdi", "/var/run/cdi")
VENDOR = re.compile(r"(?:[^/]+\.)?nvidia\.com/.+")
GPUS = "nvidia.com/gpu"  # of the container toolkit, which names all partitions, too
PARTITION = re.compile(r"/dev/nvidia-caps/nvidia-cap(\d+)\b")


def find(host: Host) -> dict[str, Any]:
    specs = [spec for path in _files(host) for spec in [_spec(host, path)] if spec]
    on_disk = driver.installed(host) or driver.loaded(host) or {}
    partitions = _partitions(host)
    for spec in specs:
        known = spec.pop("partitions")
        spec["stale"] = spec["driver_version"] not in (None, on_disk.get("version")) or (
            spec["kind"] == GPUS and known != partitions
        )
    return {"specs": specs, "stale": any(spec["stale"] for spec in specs)}


def _partitions(host: Host) -> set[str]:
    """Of MIG, by the minor numbers of their device files. Nothing writes a specification anew when they change."""
    cards = "/proc/driver/nvidia/capabilities"
    found: set[str] = set()
    for mig in [f"{cards}/{card}/mig" for card in host.names(cards) if card.startswith("gpu")]:
        instances = [f"{mig}/{name}" for name in host.names(mig) if name.startswith("gi")]
        computes = [f"{path}/{name}" for path in instances for name in host.names(path) if name.startswith("ci")]
        for path in instances + computes:
            found.update(re.findall(r"^DeviceFileMinor:\s*(\d+)", host.read(f"{path}/access") or "", re.M))
    return found


def _files(host: Host) -> list[str]:
    # /var/run is a link to /run, of this machine too
    folders = {os.path.realpath(host.real(folder)): folder for folder in reversed(FOLDERS)}
    return [
        f"{folder}/{name}"
        for folder in FOLDERS
        if folder in folders.values()
        for name in host.names(folder)
        if name.endswith((".json", ".yaml"))
    ]


def _spec(host: Host, path: str) -> Optional[dict[str, Any]]:
    text = host.read(path)
    if text is None:
        return None
    try:
        kind, devices = _json(text) if text.lstrip().startswith("{") else _yaml(text)
    except ValueError as error:
        host.problem(path, str(error))
        return None
    if not VENDOR.fullmatch(kind):
        return None
    library = driver.LIBRARY.search(text)
    return {
        "path": path,
        "kind": kind,
        "devices": devices,
        "driver_version": library[1] if library else None,
        "partitions": set(PARTITION.findall(text)),
    }


def _json(text: str) -> tuple[str, list[str]]:
    try:
        spec = json.loads(text)
        return str(spec["kind"]), [str(device["name"]) for device in spec.get("devices") or []]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"No CDI specification: {error}") from error


def _yaml(text: str) -> tuple[str, list[str]]:
    """Without a YAML library, which a host need not have: block style, one key a line, as Go programs write it."""
    kind: Optional[str] = None
    names: list[str] = []
    count = 0
    inside, indent = False, ""
    for line in text.splitlines():
        top = re.match(r"([A-Za-z]+):\s*(.*)", line)
        if top:
            inside, indent = top[1] == "devices", ""
            if top[1] == "kind":
                kind = _scalar(top[2])
            if inside and top[2] not in ("", "[]"):
                raise ValueError("Its devices are not written in block style.")
            continue
        if not inside:
            continue
        item = re.match(r"( *)- (?=\S)", line)
        if item and (not indent or len(item[0]) == len(indent)):
            count, indent = count + 1, " " * len(item[0])
        entry = re.match(r"(?: *- | *)name:\s*(.+)", line)
        if entry and indent and line.index("name:") == len(indent):
            names.append(_scalar(entry[1]))
    if not kind:
        raise ValueError("No CDI specification: it has no kind.")
    if len(names) != count:
        raise ValueError(f"{count} devices, but names of {len(names)}: the file is cut off, or not in block style.")
    return kind, names


def _scalar(text: str) -> str:
    text = re.sub(r"\s+#.*", "", text.strip())
    return text[1:-1] if text[:1] in "\"'" and text[:1] == text[-1:] else text
