# SPDX-License-Identifier: GPL-3.0-or-later
"""Hosts as trees of files, made as the real ones are."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.gpuops.nim.plugins.module_utils._host import facts
from ansible_collections.gpuops.nim.plugins.module_utils._host.host import Host

SYSTEMS = Path(__file__).parent / "systems"
TOLD = {
    "open": """\
NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  {}  Release Build  (dvs-builder@U22-I3-AF03-30-1)  Tue Jul 7
GCC version:  gcc version 13.3.0 (Ubuntu 13.3.0-6ubuntu2~24.04)
""",
    "proprietary": """\
NVRM version: NVIDIA UNIX x86_64 Kernel Module  {}  Tue Apr  8 12:41:17 UTC 2025
GCC version:  gcc version 14.2.0 (Debian 14.2.0-19)
""",
}


class Tree:
    """A host's files. What a program would have printed stands in `printed`; others are not there."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.printed: dict[str, str] = {}

    def path(self, path: str) -> Path:
        found = self.root / path.lstrip("/")
        found.parent.mkdir(parents=True, exist_ok=True)
        return found

    def file(self, path: str, content: str | bytes = "") -> None:
        self.path(path).write_bytes(content.encode() if isinstance(content, str) else content)

    def folder(self, path: str) -> None:
        self.path(path).mkdir(parents=True, exist_ok=True)

    def link(self, path: str, target: str) -> None:
        self.path(path).symlink_to(target)

    def recorded(self, name: str) -> str:
        return (SYSTEMS / name).read_text()

    def system(self, name: str) -> None:
        self.file("/usr/lib/os-release", self.recorded(f"{name}.os-release"))
        self.link("/etc/os-release", "../usr/lib/os-release")

    def kernel(self, running: str, *installed: str, headers: Sequence[str] = ()) -> None:
        self.file("/proc/sys/kernel/osrelease", f"{running}\n")
        for release in installed:
            self.file(f"/boot/vmlinuz-{release}")
            self.folder(f"/usr/lib/modules/{release}")
        if installed and not (self.root / "lib").exists():
            self.link("/lib", "usr/lib")
        for release in headers:
            self.file(f"/usr/src/linux-headers-{release}/Makefile")
            self.link(f"/usr/lib/modules/{release}/build", f"/usr/src/linux-headers-{release}")

    def device(self, address: str, device: str, pci_class: str = "0x030200", driver: str | None = None) -> None:
        folder = f"/sys/devices/pci0000:00/{address}"
        self.file(f"{folder}/vendor", "0x10de\n")
        self.file(f"{folder}/device", f"0x{device}\n")
        self.file(f"{folder}/class", f"{pci_class}\n")
        if driver:
            self.folder(f"/sys/bus/pci/drivers/{driver}")
            self.link(f"{folder}/driver", f"../../../bus/pci/drivers/{driver}")
        self.link(f"/sys/bus/pci/devices/{address}", f"../../../devices/pci0000:00/{address}")

    def loaded(self, version: str, flavour: str = "open") -> None:
        self.file("/sys/module/nvidia/version", f"{version}\n")
        self.file("/proc/driver/nvidia/version", TOLD[flavour].format(version))

    def dpkg(self, packages: Mapping[str, str], state: str = "installed") -> None:
        with self.path("/var/lib/dpkg/status").open("a") as status:
            for name, version in packages.items():
                status.write(
                    f"Package: {name}\nStatus: install ok {state}\nArchitecture: amd64\nVersion: {version}\n\n"
                )

    def rpm(self, packages: Mapping[str, str]) -> None:
        self.file("/var/lib/rpm/rpmdb.sqlite")
        self.printed["rpm"] = "".join(f"{name} {version}\n" for name, version in packages.items())

    def dkms(self, module: str, version: str, *built: str, installed: Sequence[str] = ()) -> None:
        self.file(f"/usr/src/{module}-{version}/dkms.conf")
        folder = f"/var/lib/dkms/{module}/{version}"
        self.link(f"{folder}/source", f"/usr/src/{module}-{version}")
        for kernel in {*built, *installed}:
            self.file(f"{folder}/{kernel}/x86_64/module/nvidia.ko")
        for kernel in installed:
            self.link(f"/var/lib/dkms/{module}/kernel-{kernel}-x86_64", f"{version}/{kernel}/x86_64")

    def process(self, pid: int, name: str, cgroup: str, *files: str) -> None:
        self.file(f"/proc/{pid}/comm", f"{name}\n")
        self.file(f"/proc/{pid}/cgroup", cgroup)
        self.folder(f"/proc/{pid}/fd")
        for number, target in enumerate(files):
            self.link(f"/proc/{pid}/fd/{number}", target)

    def facts(self, *parts: str) -> dict[str, Any]:
        return facts.look(Host(str(self.root), self._run if self.printed else None), parts or facts.PARTS)

    def _run(self, command: Sequence[str]) -> str:
        for start, text in self.printed.items():
            if " ".join(command).startswith(start):
                return text
        raise subprocess.CalledProcessError(1, command, stderr=b"not recorded")


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path / "root")
