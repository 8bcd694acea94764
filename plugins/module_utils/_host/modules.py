# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""Private. Files of kernel modules, for a kernel that need not run."""

from __future__ import annotations

import gzip
import lzma
import re
from dataclasses import dataclass
from typing import Optional

from ansible_collections.gpuops.nim.plugins.module_utils._host.host import Host

# Debian calls the file nvidia-current.ko; the module in it is nvidia all the same
NAME = re.compile(r"nvidia(?:-current(?:-open)?)?\.ko(\.xz|\.gz|\.zst)?")
# where they go, for a kernel whose modules.dep is not there
FOLDERS = ("updates/dkms", "updates", "extra", "extra/drivers/video/nvidia", "weak-updates", "kernel/drivers/video")
VERSION = re.compile(rb"\0version=([0-9.]+)\0")
LICENSE = re.compile(rb"\0license=(Dual MIT/GPL|NVIDIA)\0")
FLAVOURS = {"Dual MIT/GPL": "open", "NVIDIA": "proprietary"}


@dataclass(frozen=True)
class Module:
    version: Optional[str]
    flavour: Optional[str]


def find(host: Host, kernel: Optional[str]) -> Optional[str]:
    """The path of the driver's module for a kernel."""
    if kernel is None:
        return None
    folder = f"/lib/modules/{kernel}"
    if host.exists(f"{folder}/modules.dep"):
        listed = [line.partition(":")[0] for line in host.lines(f"{folder}/modules.dep")]
    else:
        listed = [f"{part}/{name}" for part in FOLDERS for name in host.names(f"{folder}/{part}")]
    return next((f"{folder}/{path}" for path in listed if NAME.fullmatch(path.rpartition("/")[2])), None)


def read(host: Host, path: str) -> Module:
    """What a module says of itself."""
    try:
        data = _contents(host, path)
    except (OSError, EOFError, lzma.LZMAError) as error:
        host.problem(path, f"Not a compressed module: {error}")
        return Module(None, None)
    if data is None:
        return _ask(host, path)
    version, license = VERSION.search(data), LICENSE.search(data)
    return Module(version and version[1].decode(), license and FLAVOURS[license[1].decode()])


def _contents(host: Host, path: str) -> Optional[bytes]:
    """None where the compression is one that Python knows only since 3.14."""
    if path.endswith(".zst"):
        return None
    data = host.read_bytes(path) or b""
    if path.endswith(".gz"):
        return gzip.decompress(data)
    return lzma.decompress(data) if path.endswith(".xz") else data


def _ask(host: Host, path: str) -> Module:
    text = host.output("modinfo", path) or ""
    pairs = (line.split(":", 1) for line in text.splitlines() if ":" in line)
    fields = {name.strip(): value.strip() for name, value in pairs}
    return Module(fields.get("version"), FLAVOURS.get(fields.get("license", "")))
