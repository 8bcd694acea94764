# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""What there is to install a driver from: systems, repositories with their keys, and package names. Only data.

drivers_plan.py chooses from it; docs/driver.md shows it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Optional

INSTALLED, RESOLVED = "installed in tests", "resolved only"
CUDA_REPO, DISTRIBUTION, PRECOMPILED = "cuda_repo", "distribution", "precompiled"
SOURCES = (CUDA_REPO, DISTRIBUTION, PRECOMPILED)
CUDA_HOSTS = {
    "global": "https://developer.download.nvidia.com/compute/cuda/repos",
    "china": "https://developer.download.nvidia.cn/compute/cuda/repos",
}
DEBIAN, DEBIAN_SECURITY = "http://ftp.debian.org/debian", "http://security.debian.org/debian-security"
CUDA_ARCHITECTURES = {"x86_64": "x86_64", "aarch64": "sbsa"}  # by what `uname -m` says
_CUDA_BRANCHES = (580, 595, 610, 615, 620)


@dataclass(frozen=True)
class Key:
    """Of a CUDA repository. A fingerprint that nobody has published where we could read it is ""."""

    file: str
    fingerprint: str


DEB_KEY = Key("3bf863cc.pub", "EB693B3035CD5710E231E123A4B469963BF863CC")
RPM_KEY = Key("D42D0685.pub", "610C7B14E068A878070DA4E99CD0A493D42D0685")


@dataclass(frozen=True)
class System:
    """An operating system by the ``ID`` and the beginning of the ``VERSION_ID`` in its /etc/os-release.

    ``branches``: by source, what it offers. ``family`` chooses the package names. ``packages``: what installs a
    package there: an Ansible module, or the command ``dnf`` where the module's Python is too old for Ansible.
    ``before``: packages that must be there first (DKMS comes from EPEL).
    """

    title: str
    ids: tuple[str, ...]
    version: str
    family: str
    directory: str  # in the CUDA repository
    key: Key
    branches: Mapping[str, tuple[int, ...]]
    tested: str = RESOLVED
    packages: str = "apt"
    architectures: tuple[str, ...] = ("x86_64", "aarch64")
    codename: str = ""  # of its own archive
    kernel: str = ""  # the series that it was released with; others are hardware-enablement kernels
    streams: bool = False  # branches are streams of a dnf module
    before: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # by ID
    extra_repository: Mapping[str, str] = field(default_factory=dict)  # switched off by default, that EPEL needs, by ID
    notes: str = ""


def _epel(release: int) -> Mapping[str, tuple[str, ...]]:
    fedora = f"https://dl.fedoraproject.org/pub/epel/epel-release-latest-{release}.noarch.rpm"
    own = ("epel-release",)
    return {
        "rhel": (fedora,),
        "rocky": own,
        "almalinux": own,
        "centos": own,
        "ol": (f"oracle-epel-release-el{release}",),
    }


_EL = ("rhel", "rocky", "almalinux", "ol", "centos")

SYSTEMS = (
    System(
        "Debian 12",
        ("debian",),
        "12",
        "debian",
        "debian12",
        DEB_KEY,
        {CUDA_REPO: _CUDA_BRANCHES, DISTRIBUTION: (535,)},
        tested=INSTALLED,
        codename="bookworm",
        notes="Debian's own open modules can't be installed: their firmware was replaced by a security update.",
    ),
    System(
        "Debian 13",
        ("debian",),
        "13",
        "debian",
        "debian13",
        Key("8793F200.pub", "02182E60104FCDC26EAE1B8597A5D4CB8793F200"),
        {CUDA_REPO: _CUDA_BRANCHES, DISTRIBUTION: (550,)},
        architectures=("x86_64",),
        tested=INSTALLED,
        codename="trixie",
        notes="Debian's own open modules, 550.163.01-2, can't be built for its kernels 6.12.117 and 6.12.118 "
        "(pci_resize_resource has another argument there; seen on 2026-11-28).",
    ),
    System(
        "Ubuntu 22.04",
        ("ubuntu",),
        "22.04",
        "ubuntu",
        "ubuntu2204",
        DEB_KEY,
        {CUDA_REPO: _CUDA_BRANCHES, DISTRIBUTION: (580, 595), PRECOMPILED: (580, 595)},
        codename="jammy",
        kernel="5.15",
    ),
    System(
        "Ubuntu 24.04",
        ("ubuntu",),
        "24.04",
        "ubuntu",
        "ubuntu2404",
        DEB_KEY,
        {CUDA_REPO: _CUDA_BRANCHES, DISTRIBUTION: (580, 595), PRECOMPILED: (580, 595)},
        codename="noble",
        kernel="6.8",
    ),
    System(
        "Ubuntu 26.04",
        ("ubuntu",),
        "26.04",
        "ubuntu",
        "ubuntu2604",
        Key("60DF8A40.pub", "14BAFBC7562AD710CA04E69905FBB6DA60DF8A40"),
        {CUDA_REPO: (595, 610, 615, 620), DISTRIBUTION: (580, 595), PRECOMPILED: (595,)},
        codename="resolute",
        kernel="7.0",
    ),
    System(
        "RHEL, Rocky, AlmaLinux, Oracle Linux 8",
        _EL,
        "8",
        "el",
        "rhel8",
        RPM_KEY,
        {CUDA_REPO: _CUDA_BRANCHES},
        packages="dnf command",
        streams=True,
        before=_epel(8),
        notes="Its own Python 3.6 is too old for Ansible: install python3.11 and set ansible_python_interpreter.",
    ),
    System(
        "RHEL, Rocky, AlmaLinux, Oracle Linux, CentOS Stream 9",
        _EL,
        "9",
        "el",
        "rhel9",
        RPM_KEY,
        {CUDA_REPO: _CUDA_BRANCHES},
        packages="dnf",
        streams=True,
        before=_epel(9),
    ),
    System(
        "RHEL, Rocky, AlmaLinux, Oracle Linux, CentOS Stream 10",
        _EL,
        "10",
        "el",
        "rhel10",
        Key("CDF6BA43.pub", ""),
        {CUDA_REPO: _CUDA_BRANCHES},
        packages="dnf",
        before=_epel(10),
        extra_repository={
            "rhel": "codeready-builder-for-rhel-10-{arch}-rpms",
            "ol": "ol10_codeready_builder",
            **dict.fromkeys(("rocky", "almalinux", "centos"), "crb"),
        },
        notes="The fingerprint of NVIDIA's key has to be given, as nvidia_driver_key_fingerprint.",
    ),
    System(
        "Alibaba Cloud Linux 3",
        ("alinux",),
        "3",
        "el",
        "rhel8",
        RPM_KEY,
        {CUDA_REPO: _CUDA_BRANCHES},
        packages="dnf command",
        streams=True,
        before={"alinux": ("epel-aliyuncs-release",)},
        notes="Not on NVIDIA's list; takes what is made for EL 8. "
        "Its own Python 3.6 is too old for Ansible: install python3.11 and set ansible_python_interpreter.",
    ),
    System(
        "Amazon Linux 2023",
        ("amzn",),
        "2023",
        "el",
        "amzn2023",
        RPM_KEY,
        {CUDA_REPO: _CUDA_BRANCHES},
        packages="dnf",
        streams=True,
    ),
)

# what people ask for and why it is not there
NOT_SUPPORTED = {
    "Ubuntu 20.04": "NVIDIA's guides have left it out since branch 590",
    "Debian 11": "NVIDIA's guides have left it out since branch 590",
    "SLES and openSUSE": "their driver comes as a package for each kernel, which this role does not handle",
    "Amazon Linux 2": "NVIDIA has no repository for it",
    "EL with precompiled modules": "NVIDIA builds them for some kernels only, and lags behind",
}


@dataclass(frozen=True)
class Names:
    """Formats of package names; {b} is the branch, {o} is -open or "". ``matched`` must have the driver's version."""

    open: tuple[str, ...]
    proprietary: tuple[str, ...]
    pin: Optional[str] = None  # a package that keeps apt on a branch, or on a version
    matched: tuple[str, ...] = ()  # for NVSwitch
    nvlink5: tuple[str, ...] = ()  # beside them, from the fifth NVLink on
    ousts: tuple[str, ...] = ()  # what may not stay beside them, whoever asked for it


_MODERN_FABRIC = ("nvidia-fabricmanager", "libnvidia-nscq")
_NVLINK5 = ("nvlsm", "infiniband-diags")
_PIN = "nvidia-driver-pinning-{b}"


def names(family: str, source: str, branch: int) -> Names:
    """Of what has to be named; the rest comes as dependencies. Compute only: no X."""
    chosen = _TABLE[family, source]
    return chosen[-1] if branch >= 590 else chosen[0]  # NVIDIA dropped the branch from Ubuntu's names then


def _set(*both: str, open: str, proprietary: str, **rest: Any) -> Names:
    return Names((*both, open), (*both, proprietary), **rest)


_FABRIC = {"matched": ("nvidia-fabricmanager", "libnvidia-nscq"), "nvlink5": ("nvlsm", "infiniband-diags")}
_PINNED = {"pin": "nvidia-driver-pinning-{b}", **_FABRIC}


def _ubuntu_server(headless: str, ousts: tuple[str, ...] = ()) -> Names:
    return _set(
        "libnvidia-compute-{b}-server",
        "nvidia-utils-{b}-server",
        "nvidia-compute-utils-{b}-server",
        open=f"{headless}-{{b}}-server-open",
        proprietary=f"{headless}-{{b}}-server",
        matched=("nvidia-fabricmanager-{b}", "libnvidia-nscq-{b}"),
        ousts=ousts,
    )


# what DKMS has built is loaded before what Ubuntu has signed
_BUILT = tuple(f"{name}-{{b}}-server{o}" for name in ("nvidia-headless", "nvidia-dkms") for o in ("", "-open"))
# by family and source: of branches before 590, and of later ones where they differ
_TABLE = {
    ("debian", CUDA_REPO): (
        _set(
            "nvidia-driver-cuda",
            "nvidia-persistenced",
            open="nvidia-kernel-open-dkms",
            proprietary="nvidia-kernel-dkms",
            **_PINNED,
        ),
    ),
    ("debian", DISTRIBUTION): (
        _set(
            "nvidia-smi",
            "libcuda1",
            "libnvidia-ml1",
            "libnvidia-cfg1",
            "nvidia-persistenced",
            "firmware-nvidia-gsp",
            open="nvidia-open-kernel-dkms",
            proprietary="nvidia-kernel-dkms",
        ),
    ),
    ("ubuntu", CUDA_REPO): (
        _set(
            "libnvidia-compute-{b}",
            "nvidia-utils-{b}",
            "nvidia-compute-utils-{b}",
            open="nvidia-dkms-{b}-open",
            proprietary="nvidia-dkms-{b}",
            **_PINNED,
        ),
        _set("libnvidia-compute", open="nvidia-dkms-open", proprietary="nvidia-dkms", **_PINNED),
    ),
    ("ubuntu", DISTRIBUTION): (_ubuntu_server("nvidia-headless"),),
    ("ubuntu", PRECOMPILED): (_ubuntu_server("nvidia-headless-no-dkms", ousts=_BUILT),),
    ("el", CUDA_REPO): (
        _set(
            "nvidia-driver-cuda",
            open="kmod-nvidia-open-dkms",
            proprietary="kmod-nvidia-latest-dkms",
            **_FABRIC,
        ),
    ),
}
