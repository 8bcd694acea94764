# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""From what a host is and what is wanted to what has to be installed on it; or all that stands in the way."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Optional

from . import branches, drivers
from .branches import BRANCHES, Branch
from .drivers import CUDA_REPO, DISTRIBUTION, PRECOMPILED, SOURCES, SYSTEMS, Names, System

Json = dict[str, Any]
OPEN, PROPRIETARY = "open", "proprietary"
KEY_DEB, KEY_RPM = "/etc/apt/keyrings/gpuops-nim-nvidia.asc", "/etc/pki/rpm-gpg/RPM-GPG-KEY-gpuops-nim-nvidia"
_VERSION = re.compile(r"\d{3}(\.\d+){1,2}")


@dataclass(frozen=True)
class Wanted:
    """The variables of the role, without their prefix."""

    source: str = "auto"
    branch: str = "auto"
    version: str = ""
    flavour: str = "auto"
    end_of_life: str = "fail"
    region: str = "global"
    repository_url: str = ""
    key_url: str = ""
    key_fingerprint: str = ""
    min_cuda: str = ""
    mok_enrolled: bool = False


@dataclass
class _Plan:
    """Grows while it is made. ``problems`` are sentences, each names the variable to change."""

    host: Mapping[str, Any]
    wanted: Wanted
    today: datetime.date
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    system: Optional[System] = None
    source: str = ""
    branch: Optional[Branch] = None
    flavour: str = ""


def plan(host: Mapping[str, Any], wanted: Wanted, today: datetime.date) -> Json:
    """What to install on ``host``, as gpu_host_info describes it. Nothing but ``problems`` counts if there are any."""
    made = _Plan(host, wanted, today)
    _choose(made)
    if made.problems or made.system is None or made.branch is None:
        return {"problems": made.problems, "warnings": made.warnings}
    return {"problems": [], "warnings": made.warnings, **_details(made, made.system, made.branch)}


def _choose(made: _Plan) -> None:
    made.system = _system(made)
    if made.system is None:
        return
    made.source = _source(made, made.system)
    if made.problems:
        return
    made.branch = _branch(made, made.system)
    if made.branch is None:
        return
    made.flavour = _flavour(made, made.branch)
    made.problems += _conflicts(made, made.system, made.branch)


# -- system and source


def find(os: Mapping[str, Any]) -> Optional[System]:
    """The system that an os-release describes. 12.5 is a 12, 24.04.3 a 24.04, and 10 is not a 1."""
    version = str(os.get("version") or "")
    for system in SYSTEMS:
        if os.get("id") in system.ids and (version == system.version or version.startswith(system.version + ".")):
            return system
    return None


def _system(made: _Plan) -> Optional[System]:
    os = made.host["os"]
    system = find(os)
    if system is None:
        titles = "; ".join(each.title for each in SYSTEMS)
        made.problems.append(
            f"The system {os.get('name') or os.get('id')} ({os.get('id')} {os.get('version')}) is not supported. "
            f"Supported are: {titles}."
        )
    elif os.get("arch") not in drivers.CUDA_ARCHITECTURES:
        made.problems.append(f"The architecture {os.get('arch')} is not supported: NVIDIA has x86_64 and aarch64.")
        return None
    return system


def _source(made: _Plan, system: System) -> str:
    source, arch = made.wanted.source, made.host["os"]["arch"]
    if source == "auto":
        # modules that the distribution has signed are the only ones that load under Secure Boot without a visit
        signed = PRECOMPILED in system.branches and not made.wanted.mok_enrolled
        source = PRECOMPILED if _secure_boot(made) and signed else CUDA_REPO
    if source not in SOURCES:
        made.problems.append(f"nvidia_driver_source: {source!r} is not one of auto, {', '.join(SOURCES)}.")
    elif source not in system.branches:
        made.problems.append(f"nvidia_driver_source: {system.title} has no {source}. {_offers(system)}")
    elif source == CUDA_REPO and arch not in system.architectures and not made.wanted.repository_url:
        made.problems.append(
            f"nvidia_driver_source: NVIDIA's repository for {system.title} is for {' and '.join(system.architectures)} "
            f"only, and the host is {arch}. {_offers(system)}"
        )
    return source


def _offers(system: System) -> str:
    parts = [f"{source} ({', '.join(map(str, numbers))})" for source, numbers in system.branches.items()]
    return f"{system.title} has these sources and branches: {'; '.join(parts)}."


# -- branch


def _branch(made: _Plan, system: System) -> Optional[Branch]:
    offered = system.branches[made.source]
    text = made.wanted.version.split(".")[0] if made.wanted.version else made.wanted.branch
    if made.wanted.version and not _VERSION.fullmatch(made.wanted.version):
        made.problems.append(
            f"nvidia_driver_version: {made.wanted.version!r} is not a driver's version; write it as 580.178.04."
        )
        return None
    if made.wanted.version and made.wanted.branch not in ("auto", text):
        made.problems.append(
            f"nvidia_driver_version {made.wanted.version} is not of nvidia_driver_branch {made.wanted.branch}: "
            "leave one of them out."
        )
        return None
    if text == "auto":
        long_term = branches.LAST_FOR_PRE_TURING  # 580: all generations, and the longest support
        text = str(long_term if long_term in offered else offered[0])
    branch = BRANCHES.get(int(text)) if text.isdigit() else None
    if branch is None:
        known = ", ".join(str(number) for number in BRANCHES)
        made.problems.append(f"nvidia_driver_branch: {text} is not a branch that this role knows: {known}.")
        return None
    if branch.number not in offered:
        made.problems.append(
            f"nvidia_driver_branch: {text} is not in {made.source} for {system.title}. {_offers(system)}"
        )
        return None
    if branch.ended(made.today):
        said = f"Branch {branch.number} ({branch.kind}) is {_past(branch)}."
        if made.wanted.end_of_life == "warn":
            made.warnings.append(said)
        else:
            living = ", ".join(
                str(each.number)
                for each in BRANCHES.values()
                if not each.ended(made.today) and each.number in system.branches.get(CUDA_REPO, ())
            )
            made.problems.append(
                f"nvidia_driver_branch: {said} Use one of {living} from cuda_repo, "
                "or set nvidia_driver_end_of_life: warn."
            )
    return branch


def _past(branch: Branch) -> str:
    return f"past its end of support, {branch.ends:%Y-%m-%d}" if branch.listed and branch.ends else branch.lifetime


# -- flavour


def _generations(made: _Plan) -> list[str]:
    return sorted({gpu["generation"] for gpu in made.host["gpus"] if gpu.get("generation")}, key=branches.age)


def _named(made: _Plan, *generations: str) -> str:
    """The GPUs of these generations, for messages."""
    gpus = [gpu for gpu in made.host["gpus"] if gpu.get("generation") in generations]
    return ", ".join(
        sorted({f"{gpu.get('name') or gpu.get('device_id')} ({gpu['generation'].capitalize()})" for gpu in gpus})
    )


def _flavour(made: _Plan, branch: Branch) -> str:
    if made.wanted.flavour != "auto":
        return made.wanted.flavour
    generations = _generations(made)
    if branch.number > branches.LAST_PROPRIETARY or any(map(branches.open_only, generations)):
        return OPEN
    if any(map(branches.proprietary_only, generations)) or branch.number < branches.OPEN_BY_DEFAULT:
        return PROPRIETARY
    return OPEN


def _conflicts(made: _Plan, system: System, branch: Branch) -> Iterator[str]:
    generations = _generations(made)
    old = [name for name in generations if branches.proprietary_only(name)]
    new = [name for name in generations if branches.open_only(name)]
    if old and new:
        yield (
            f"No driver handles both {_named(made, *old)}, which needs proprietary modules, and "
            f"{_named(made, *new)}, which needs open ones. Take one of them out of the host."
        )
    elif old and branch.number > branches.LAST_FOR_PRE_TURING:
        yield (
            f"nvidia_driver_branch: {branch.number} does not drive {_named(made, *old)}; the last branch that does is "
            f"{branches.LAST_FOR_PRE_TURING}."
        )
    elif old and made.flavour == OPEN:
        yield f"nvidia_driver_flavour: open modules do not drive {_named(made, *old)}; set it to proprietary, or auto."
    elif new and branch.number < branches.FIRST_FOR_BLACKWELL:
        yield (
            f"nvidia_driver_branch: {branch.number} does not drive {_named(made, *new)}; the first branch that does is "
            f"{branches.FIRST_FOR_BLACKWELL}. {_offers(system)}"
        )
    elif new and made.flavour == PROPRIETARY:
        yield f"nvidia_driver_flavour: proprietary modules do not drive {_named(made, *new)}; set it to open, or auto."
    if made.flavour == PROPRIETARY and branch.number > branches.LAST_PROPRIETARY:
        yield (
            f"nvidia_driver_flavour: branch {branch.number} has no proprietary modules; the last branch with them is "
            f"{branches.LAST_PROPRIETARY}. Set it to open, or auto."
        )
    if made.flavour == OPEN and made.source == DISTRIBUTION and system.title == "Debian 12":
        yield f"nvidia_driver_flavour: {system.notes} Set it to proprietary, or nvidia_driver_source: cuda_repo."
    yield from _other_conflicts(made, system, branch)


def _other_conflicts(made: _Plan, system: System, branch: Branch) -> Iterator[str]:
    cuda = re.match(r"\d+", made.wanted.min_cuda)
    if made.wanted.min_cuda and (cuda is None or int(cuda[0]) not in branches.CUDA_NEEDS):
        known = ", ".join(str(major) for major in branches.CUDA_NEEDS)
        yield f"nvidia_driver_min_cuda: {made.wanted.min_cuda!r} is not a version of CUDA {known}; write it as 12.8."
    elif cuda and branch.number < branches.CUDA_NEEDS[int(cuda[0])]:
        yield (
            f"nvidia_driver_branch: {branch.number} does not run CUDA {made.wanted.min_cuda} (nvidia_driver_min_cuda), "
            f"which needs {branches.CUDA_NEEDS[int(cuda[0])]} or later."
        )
    if made.host.get("nvswitches") and not _names(made, system, branch).matched:
        yield (
            f"nvidia_driver_source: {made.source} of {system.title} has no fabric manager, and without it no program "
            "can use the GPUs of this host, which has NVSwitches. Set it to cuda_repo."
        )
    if made.source == CUDA_REPO and not (made.wanted.key_fingerprint or system.key.fingerprint):
        yield (
            "nvidia_driver_key_fingerprint: needed here, since this role does not know the fingerprint of NVIDIA's key "
            f"{system.key.file} for {system.title}. Compare what "
            f"`gpg --show-keys {system.key.file}` says with what NVIDIA publishes."
        )
    if _secure_boot(made) and made.source != PRECOMPILED and not made.wanted.mok_enrolled:
        yield _mok_steps(made, system)


def _secure_boot(made: _Plan) -> bool:
    return bool((made.host.get("secure_boot") or {}).get("enabled"))


def _mok_steps(made: _Plan, system: System) -> str:
    ubuntu = system.family == "ubuntu"
    key = "/var/lib/shim-signed/mok/MOK.der" if ubuntu else "/var/lib/dkms/mok.pub"
    key = next(iter(made.host["secure_boot"].get("signing_keys") or ()), key)
    tool = "apt install dkms mokutil" if system.packages == "apt" else "dnf install dkms mokutil"
    make = "update-secureboot-policy --new-key" if ubuntu else "dkms generate_mok"
    instead = "Set nvidia_driver_source: precompiled for modules that Ubuntu has signed; or" if ubuntu else "Either"
    return (
        "Secure Boot is on, and the kernel refuses modules that are built on the host until their key is enrolled. "
        f"{instead} enrol it: `{tool}`, `{make}` if {key} does not exist, `mokutil --import {key}` (choose a "
        "password), reboot with a console at hand, choose Enroll MOK there and give the password. Then set "
        "nvidia_driver_mok_enrolled: true. Or switch Secure Boot off in the firmware."
    )


# -- what it comes to


def _names(made: _Plan, system: System, branch: Branch) -> Names:
    return drivers.names(system.family, made.source, branch.number)


def _details(made: _Plan, system: System, branch: Branch) -> Json:
    found, number, wanted = _names(made, system, branch), branch.number, made.wanted
    apt = system.packages == "apt"
    packages = [text.format(b=number) for text in (found.open if made.flavour == OPEN else found.proprietary)]
    others = [text.format(b=number) for text in (*found.open, *found.proprietary, *found.ousts)]
    kernel = str(made.host["kernel"].get("next") or made.host["kernel"]["running"])
    if made.source == PRECOMPILED:
        suffix = f"{number}-server{'-open' if made.flavour == OPEN else ''}"
        packages += [f"linux-modules-nvidia-{suffix}-{_ubuntu_flavour(system, kernel)}"]
    switches, nvlink5 = bool(made.host.get("nvswitches")), bool(made.host.get("nvlink5"))
    matched = [text.format(b=number) for text in found.matched] if switches or nvlink5 else []
    beside = list(found.nvlink5) if nvlink5 else []
    return {
        "system": system.title,
        "tested": system.tested,
        "source": made.source,
        "branch": str(number),
        "branch_lifetime": f"{branch.kind}, {branch.lifetime}",
        "flavour": made.flavour,
        "version": wanted.version,
        "package_manager": system.packages,
        "prerequisites": list(system.before.get(made.host["os"]["id"], ())) if made.source == CUDA_REPO else [],
        "enable_repository": system.extra_repository.get(made.host["os"]["id"], "").format(
            arch=made.host["os"]["arch"]
        ),
        "repositories": list(_repositories(made, system)),
        "key": _key(made, system) if made.source == CUDA_REPO else None,
        "module_stream": _stream(number, made.flavour) if system.streams else "",
        "pin": found.pin.format(b=wanted.version or number) if found.pin else "",
        "packages": packages,
        "instead_of": [name for name in others if name not in packages],
        "hold": "mark" if apt else "versionlock",
        "dkms": made.source != PRECOMPILED,
        "kernel": kernel,
        "headers": _headers(system, made.host["os"], kernel) if made.source != PRECOMPILED else [],
        "fabric": {
            "matched": matched,
            "beside": beside,
            "service": "nvidia-fabricmanager.service" if matched else "",
        },
    }


def _stream(branch: int, flavour: str) -> str:
    return f"nvidia-driver:{branch}-{'open' if flavour == OPEN else 'dkms'}"


def _key(made: _Plan, system: System) -> Json:
    base, wanted = _cuda_url(made, system), made.wanted
    return {
        "url": wanted.key_url or f"{base}/{system.key.file}",
        "fingerprint": re.sub(r"\s", "", wanted.key_fingerprint or system.key.fingerprint).upper(),
        "path": KEY_DEB if system.packages == "apt" else KEY_RPM,
    }


def _cuda_url(made: _Plan, system: System) -> str:
    if made.wanted.repository_url:
        return made.wanted.repository_url.rstrip("/")
    arch = drivers.CUDA_ARCHITECTURES[made.host["os"]["arch"]]
    return f"{drivers.CUDA_HOSTS[made.wanted.region]}/{system.directory}/{arch}"


def _repositories(made: _Plan, system: System) -> Iterator[Json]:
    """One file each. ``probe`` is what answers if the repository is there."""
    if made.source == CUDA_REPO:
        url = _cuda_url(made, system)
        name = "gpuops-nim-nvidia-driver"
        if system.packages == "apt":
            yield {"name": name, "url": url, "suites": "/", "components": "", "probe": f"{url}/Release"}
        else:
            yield {"name": name, "url": url, "probe": f"{url}/repodata/repomd.xml"}
    elif system.family == "debian":
        url = (made.wanted.repository_url or drivers.DEBIAN).rstrip("/")
        suites = {url: f"{system.codename} {system.codename}-updates"}
        if not made.wanted.repository_url:
            suites[drivers.DEBIAN_SECURITY] = f"{system.codename}-security"
        for base, names in suites.items():
            yield {
                "name": "gpuops-nim-nvidia-driver" + ("-security" if base != url else ""),
                "url": base,
                "suites": names,
                "components": "contrib non-free non-free-firmware",
                "probe": f"{base}/dists/{names.split()[0]}/Release",
            }
    # Ubuntu's restricted component, where its drivers are, is on from the start


def _headers(system: System, os: Mapping[str, Any], kernel: str) -> list[str]:
    """What DKMS needs to build for the kernel; on Debian and Ubuntu also what keeps them coming with later kernels."""
    if system.family == "debian":
        flavour = re.sub(r"^[\d.]+(\+deb\d+)?(-\d+)?-", "", kernel)
        return [f"linux-headers-{kernel}", f"linux-headers-{flavour}"]
    if system.family == "ubuntu":
        return [f"linux-headers-{kernel}", f"linux-headers-{_ubuntu_flavour(system, kernel)}"]
    if os["id"] == "amzn":
        series = ".".join(kernel.split(".")[:2])
        return [f"kernel{'' if series == '6.1' else series}-devel-{kernel}"]
    return [f"kernel-uek-devel-{kernel}" if "uek" in kernel else f"kernel-devel-{kernel}"]


def _ubuntu_flavour(system: System, kernel: str) -> str:
    """As the names of Ubuntu's metapackages end: generic, aws, generic-hwe-24.04."""
    flavour = kernel.split("-", 2)[-1]
    newer = flavour == "generic" and not kernel.startswith(system.kernel + ".")
    return f"{flavour}-hwe-{system.version}" if newer else flavour
