# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""Private. NVIDIA's driver: what is loaded, what is on the disk, and whether the one is the other."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, Optional

from ansible_collections.gpuops.nim.plugins.module_utils._host import dkms, kernel, modules, nouveau, packages
from ansible_collections.gpuops.nim.plugins.module_utils._host.host import Host

LOADED = "/sys/module/nvidia"
TOLD = "/proc/driver/nvidia/version"
RUNFILE = "/usr/bin/nvidia-uninstall"
VERSION = re.compile(r"\d{3,}\.\d+(?:\.\d+)?")
# names that tell kernel modules of which flavour they bring; of Debian, Ubuntu and NVIDIA's apt repository, EL, SUSE
MODULE_PACKAGE = re.compile(
    r"nvidia(?:-tesla-\d+)?(?:-open)?-kernel(?:-open)?-dkms"
    r"|nvidia-(?:dkms|kernel-source)(?:-.*)?"
    r"|linux-(?:modules|objects)-nvidia-\d.*"
    r"|kmod-nvidia.*"
    r"|nvidia(?:-open)?-driver-G\d+.*-kmp-.*"
)
LIBRARY = re.compile(r"lib(?:cuda|nvidia-ml)\.so\.(\d{3,}\.\d+(?:\.\d+)?)")
LIBRARY_FOLDERS = (
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/x86_64-linux-gnu/nvidia/current",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu/nvidia/current",
    "/usr/lib64",
    "/usr/lib",
)


def find(host: Host) -> dict[str, Any]:
    running, following = kernel.running(host), kernel.following(host)
    now, disk = loaded(host), installed(host)
    reason = _reboot_reason(host, now, disk, running, following)
    return {
        "loaded": now,
        "installed": disk,
        "dkms": dkms.find(host, [release for release in (running, following) if release]),
        "reboot_needed": reason is not None,
        "reboot_reason": reason,
        "ready_for_next_kernel": modules.find(host, following) is not None if disk and following else None,
    }


def loaded(host: Host) -> Optional[dict[str, Optional[str]]]:
    told = host.read(TOLD) or ""
    version = (host.read(f"{LOADED}/version") or "").strip() or _first_version(told)
    if not version:
        return None
    if told:
        return {"version": version, "flavour": "open" if "Open Kernel Module" in told else "proprietary"}
    # how the kernel was tainted by it: P is for a proprietary license
    taint = host.read(f"{LOADED}/taint")
    return {"version": version, "flavour": taint and ("proprietary" if "P" in taint else "open")}


@lru_cache(maxsize=1)
def installed(host: Host) -> Optional[dict[str, Optional[str]]]:
    all_packages = {name: packages.upstream(version) for name, version in packages.installed(host).items()}
    of_modules = {name: version for name, version in all_packages.items() if MODULE_PACKAGE.fullmatch(name)}
    in_dkms = {entry["version"]: entry["module"] for entry in dkms.find(host, [])}
    file = modules.find(host, kernel.following(host) or kernel.running(host))
    library = _newest(libraries(host))
    # precompiled modules of Ubuntu carry the kernel's version
    version = _newest([*(v for v in of_modules.values() if VERSION.fullmatch(v)), *filter(None, in_dkms)]) or library
    flavour = _flavour([*of_modules, *filter(None, in_dkms.values())])
    if file and (version is None or flavour is None):
        module = modules.read(host, file)
        version, flavour = version or module.version, flavour or module.flavour
    if version is None:
        return None
    if library and library != version:
        host.problem("driver", f"Kernel modules of {version} and libraries of {library} are installed.")
    if host.exists(RUNFILE):
        method = "runfile"
    else:
        method = "package" if version in all_packages.values() or of_modules else "unknown"
    return {"version": version, "flavour": flavour, "method": method}


def libraries(host: Host) -> list[str]:
    """Versions in the names of libraries: the same on all systems, whoever brought them."""
    found = (LIBRARY.fullmatch(name) for folder in LIBRARY_FOLDERS for name in host.names(folder))
    return [match[1] for match in found if match]


def _flavour(names: list[str]) -> Optional[str]:
    """What names of packages, or of modules in DKMS, agree on. DKMS's plain nvidia may be either."""
    said = {"open" if "-open" in name else "proprietary" for name in names if name != "nvidia"}
    return said.pop() if len(said) == 1 else None


def _newest(versions: list[str]) -> Optional[str]:
    return max(versions, key=kernel.version_key, default=None)


def _first_version(text: str) -> Optional[str]:
    match = VERSION.search(text)
    return match[0] if match else None


def _reboot_reason(
    host: Host,
    now: Optional[dict[str, Optional[str]]],
    disk: Optional[dict[str, Optional[str]]],
    running: Optional[str],
    following: Optional[str],
) -> Optional[str]:
    if disk is None:
        return None
    if now is None:
        if nouveau.loaded(host):
            return f"nouveau is loaded, driver {disk['version']} is installed."
        if running != following and not modules.find(host, running) and modules.find(host, following):
            return f"Driver {disk['version']} was built for kernel {following}, {running} is running."
        return None
    if now["version"] != disk["version"]:
        return f"Driver {now['version']} is loaded, {disk['version']} is installed."
    if now["flavour"] and disk["flavour"] and now["flavour"] != disk["flavour"]:
        return f"The {now['flavour']} kernel modules are loaded, the {disk['flavour']} ones are installed."
    return None
