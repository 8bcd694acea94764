# SPDX-License-Identifier: GPL-3.0-or-later
"""What is installed on each system, and what is refused with which words."""

from __future__ import annotations

import datetime
from typing import Any

import pytest

from ansible_collections.gpuops.nim.plugins.module_utils._host import drivers
from ansible_collections.gpuops.nim.plugins.module_utils._host.drivers_plan import Wanted, find, plan

TODAY = datetime.date(2026, 11, 22)
H100 = {"name": "H100 SXM5 80GB", "generation": "hopper", "device_id": "10de:2330"}
B200 = {"name": "B200", "generation": "blackwell", "device_id": "10de:2901"}
P40 = {"name": "Tesla P40", "generation": "pascal", "device_id": "10de:1b38"}
V100 = {"name": "Tesla V100", "generation": "volta", "device_id": "10de:1db4"}
T4 = {"name": "Tesla T4", "generation": "turing", "device_id": "10de:1eb8"}
NEXT = {"name": None, "generation": None, "device_id": "10de:ffff"}
CUDA = "https://developer.download.nvidia.com/compute/cuda/repos"

# (ID, VERSION_ID) of recorded os-release files, and a kernel of theirs
DEBIAN_12 = ("debian", "12", "6.1.0-56-amd64")
DEBIAN_13 = ("debian", "13", "6.12.117+deb13-amd64")
UBUNTU_22 = ("ubuntu", "22.04", "5.15.0-185-generic")
UBUNTU_24 = ("ubuntu", "24.04", "6.8.0-88-generic")
UBUNTU_26 = ("ubuntu", "26.04", "7.0.0-30-generic")
RHEL_8 = ("rhel", "8.10", "4.18.0-553.89.1.el8_10.x86_64")
ROCKY_9 = ("rocky", "9.7", "5.14.0-611.9.1.el9_7.x86_64")
ALMA_10 = ("almalinux", "10.1", "6.12.0-124.13.1.el10_1.x86_64")
ALINUX_3 = ("alinux", "3", "5.10.134-19.2.al8.x86_64")
AMAZON_2023 = ("amzn", "2023", "6.12.55-74.119.amzn2023.x86_64")


def host(system: tuple[str, str, str] = DEBIAN_12, *gpus: dict[str, Any], **more: Any) -> dict[str, Any]:
    distribution, version, kernel = system
    return {
        "os": {
            "id": distribution,
            "version": version,
            "name": distribution.title(),
            "arch": more.pop("arch", "x86_64"),
        },
        "kernel": {"running": kernel, "next": kernel, "headers": {"running": True, "next": True}},
        "gpus": list(gpus or (H100,)),
        "nvswitches": [],
        "nvlink5": False,
        "secure_boot": {"enabled": False, "signing_keys": []},
        **more,
    }


def made(described: dict[str, Any], **wanted: Any) -> dict[str, Any]:
    result = plan(described, Wanted(**wanted), TODAY)
    assert result["problems"] == []
    return result


def refused(described: dict[str, Any], **wanted: Any) -> str:
    """The only thing that is wrong. A plan that can't be has nothing to install in it."""
    result = plan(described, Wanted(**wanted), TODAY)
    assert "packages" not in result
    (problem,) = result["problems"]
    return problem


@pytest.mark.parametrize(
    ("system", "directory", "packages", "stream", "headers"),
    [
        (
            DEBIAN_12,
            "debian12/x86_64",
            ["nvidia-driver-cuda", "nvidia-persistenced", "nvidia-kernel-open-dkms"],
            "",
            ["linux-headers-6.1.0-56-amd64", "linux-headers-amd64"],
        ),
        (
            DEBIAN_13,
            "debian13/x86_64",
            ["nvidia-driver-cuda", "nvidia-persistenced", "nvidia-kernel-open-dkms"],
            "",
            ["linux-headers-6.12.117+deb13-amd64", "linux-headers-amd64"],
        ),
        (
            UBUNTU_22,
            "ubuntu2204/x86_64",
            ["libnvidia-compute-580", "nvidia-utils-580", "nvidia-compute-utils-580", "nvidia-dkms-580-open"],
            "",
            ["linux-headers-5.15.0-185-generic", "linux-headers-generic"],
        ),
        (
            UBUNTU_24,
            "ubuntu2404/x86_64",
            ["libnvidia-compute-580", "nvidia-utils-580", "nvidia-compute-utils-580", "nvidia-dkms-580-open"],
            "",
            ["linux-headers-6.8.0-88-generic", "linux-headers-generic"],
        ),
        (
            UBUNTU_26,  # has no 580 in NVIDIA's repository; from 590 on names have no branch
            "ubuntu2604/x86_64",
            ["libnvidia-compute", "nvidia-dkms-open"],
            "",
            ["linux-headers-7.0.0-30-generic", "linux-headers-generic"],
        ),
        (
            RHEL_8,
            "rhel8/x86_64",
            ["nvidia-driver-cuda", "kmod-nvidia-open-dkms"],
            "nvidia-driver:580-open",
            ["kernel-devel-4.18.0-553.89.1.el8_10.x86_64"],
        ),
        (
            ROCKY_9,
            "rhel9/x86_64",
            ["nvidia-driver-cuda", "kmod-nvidia-open-dkms"],
            "nvidia-driver:580-open",
            ["kernel-devel-5.14.0-611.9.1.el9_7.x86_64"],
        ),
        (
            ALINUX_3,
            "rhel8/x86_64",
            ["nvidia-driver-cuda", "kmod-nvidia-open-dkms"],
            "nvidia-driver:580-open",
            ["kernel-devel-5.10.134-19.2.al8.x86_64"],
        ),
        (
            AMAZON_2023,
            "amzn2023/x86_64",
            ["nvidia-driver-cuda", "kmod-nvidia-open-dkms"],
            "nvidia-driver:580-open",
            ["kernel6.12-devel-6.12.55-74.119.amzn2023.x86_64"],
        ),
    ],
)
def test_every_system_by_default(
    system: tuple[str, str, str], directory: str, packages: list[str], stream: str, headers: list[str]
) -> None:
    result = made(host(system))
    assert [repository["url"] for repository in result["repositories"]] == [f"{CUDA}/{directory}"]
    assert result["key"]["url"].startswith(f"{CUDA}/{directory}/")
    assert len(result["key"]["fingerprint"]) == 40
    assert result["packages"] == packages
    assert result["module_stream"] == stream
    assert result["headers"] == headers
    assert (result["source"], result["flavour"]) == ("cuda_repo", "open")


def test_el_10_is_not_taken_for_an_older_one_and_needs_the_keys_fingerprint() -> None:
    assert "nvidia_driver_key_fingerprint" in refused(host(ALMA_10))
    result = made(host(ALMA_10), key_fingerprint="aaaa bbbb cccc dddd eeee  ffff 0000 1111 cdf6 ba43")
    assert result["repositories"][0]["url"] == f"{CUDA}/rhel10/x86_64"
    assert result["key"]["fingerprint"] == "AAAABBBBCCCCDDDDEEEEFFFF00001111CDF6BA43"
    assert result["module_stream"] == ""
    assert result["hold"] == "versionlock"


@pytest.mark.parametrize(
    ("distribution", "version", "title"),
    [
        ("debian", "12.5", "Debian 12"),
        ("ubuntu", "24.04.3", "Ubuntu 24.04"),
        ("ol", "9.6", "RHEL, Rocky, AlmaLinux, Oracle Linux, CentOS Stream 9"),
        ("centos", "10", "RHEL, Rocky, AlmaLinux, Oracle Linux, CentOS Stream 10"),
        ("debian", "1", None),
        ("rhel", "100", None),
        ("debian", "", None),
        ("ubuntu", "24.10", None),
        ("rhel", "7.9", None),
        ("amzn", "2", None),
        ("sles", "15.6", None),
    ],
)
def test_a_point_release_is_its_release_and_nothing_else_is(distribution: str, version: str, title: str | None) -> None:
    found = find({"id": distribution, "version": version})
    assert (found.title if found else None) == title


def test_each_release_is_described_once() -> None:
    seen = [(name, system.version) for system in drivers.SYSTEMS for name in system.ids]
    assert len(seen) == len(set(seen))


def test_an_unknown_system_lists_the_known_ones() -> None:
    said = refused(host(("sles", "15.6", "6.4.0-150600.23.81-default")))
    for title in ("Debian 13", "Ubuntu 26.04", "Alibaba Cloud Linux 3"):
        assert title in said


# -- branches


def test_the_branch_pins_its_packages() -> None:
    assert made(host(DEBIAN_13))["pin"] == "nvidia-driver-pinning-580"
    result = made(host(DEBIAN_13), branch="595")
    assert (result["branch"], result["pin"]) == ("595", "nvidia-driver-pinning-595")
    exact = made(host(UBUNTU_24), version="580.178.04")
    assert (exact["branch"], exact["pin"]) == ("580", "nvidia-driver-pinning-580.178.04")


def test_an_unknown_branch_lists_the_known_ones() -> None:
    said = refused(host(), branch="581")
    assert "nvidia_driver_branch: 581" in said
    assert "580, 595" in said


def test_a_branch_that_the_source_lacks_is_refused_with_what_it_has() -> None:
    said = refused(host(DEBIAN_12), source="distribution", branch="580")
    assert "nvidia_driver_branch: 580 is not in distribution for Debian 12" in said
    assert "distribution (535)" in said


def test_a_branch_past_its_end_fails_or_warns() -> None:
    said = refused(host(), branch="610")
    assert "past its end of support, 2026-08-31" in said
    assert "580, 595, 615, 620" in said
    assert "nvidia_driver_end_of_life: warn" in said
    warned = plan(host(), Wanted(branch="610", end_of_life="warn"), TODAY)
    assert warned["problems"] == []
    assert warned["warnings"] == ["Branch 610 (new feature) is past its end of support, 2026-08-31."]


@pytest.mark.parametrize("version", ["580", "580.x", "v580.178.04", "580.178.04-1"])
def test_a_version_that_is_none_is_refused(version: str) -> None:
    assert "nvidia_driver_version" in refused(host(), version=version)


def test_version_and_branch_must_agree() -> None:
    assert "leave one of them out" in refused(host(), version="580.178.04", branch="595")


# -- flavours


@pytest.mark.parametrize(
    ("gpus", "branch", "flavour"),
    [
        ([H100], "580", "open"),
        ([B200], "580", "open"),
        ([P40], "580", "proprietary"),
        ([P40, T4], "580", "proprietary"),
        ([T4, H100], "620", "open"),
        ([NEXT], "595", "open"),  # not in the table yet: newer than it
    ],
)
def test_auto_is_what_the_gpus_need(gpus: list[dict[str, Any]], branch: str, flavour: str) -> None:
    assert made(host(DEBIAN_12, *gpus), branch=branch)["flavour"] == flavour


@pytest.mark.parametrize(
    ("gpus", "wanted", "said"),
    [
        ([P40], {"flavour": "open"}, "open modules do not drive Tesla P40 (Pascal)"),
        ([V100], {"flavour": "open"}, "Tesla V100 (Volta)"),
        ([P40], {"branch": "620"}, "nvidia_driver_branch: 620 does not drive Tesla P40 (Pascal)"),
        ([V100, H100], {"branch": "595"}, "the last branch that does is 580"),
        ([B200], {"flavour": "proprietary"}, "proprietary modules do not drive B200 (Blackwell)"),
        ([H100], {"flavour": "proprietary", "branch": "620"}, "branch 620 has no proprietary modules"),
        ([P40, B200], {}, "No driver handles both Tesla P40 (Pascal)"),
    ],
)
def test_what_the_gpus_can_not_do_is_refused(gpus: list[dict[str, Any]], wanted: dict[str, Any], said: str) -> None:
    assert said in refused(host(UBUNTU_24, *gpus), **wanted)


def test_proprietary_names() -> None:
    assert made(host(DEBIAN_12), flavour="proprietary")["packages"][-1] == "nvidia-kernel-dkms"
    assert made(host(UBUNTU_24), flavour="proprietary")["packages"][-1] == "nvidia-dkms-580"
    el = made(host(ROCKY_9), flavour="proprietary", branch="595")
    assert el["packages"] == ["nvidia-driver-cuda", "kmod-nvidia-latest-dkms"]
    assert el["module_stream"] == "nvidia-driver:595-dkms"


# -- sources


def test_debians_own_packages() -> None:
    old = {"source": "distribution", "end_of_life": "warn"}
    twelve = made(host(DEBIAN_12), **old)
    assert (twelve["branch"], twelve["flavour"]) == ("535", "proprietary")
    assert twelve["key"] is None
    assert [(each["url"], each["suites"], each["components"]) for each in twelve["repositories"]] == [
        ("http://ftp.debian.org/debian", "bookworm bookworm-updates", "contrib non-free non-free-firmware"),
        ("http://security.debian.org/debian-security", "bookworm-security", "contrib non-free non-free-firmware"),
    ]
    thirteen = made(host(DEBIAN_13), **old, flavour="open")
    assert thirteen["packages"][-1] == "nvidia-open-kernel-dkms"
    assert thirteen["instead_of"] == ["nvidia-kernel-dkms"]
    assert thirteen["pin"] == ""
    assert "firmware was replaced" in refused(host(DEBIAN_12), **old, flavour="open")
    assert "B200 (Blackwell)" in refused(host(DEBIAN_13, B200), **old)


@pytest.mark.parametrize(
    ("system", "repository"),
    [("rhel", "codeready-builder-for-rhel-10-x86_64-rpms"), ("ol", "ol10_codeready_builder"), ("almalinux", "crb")],
)
def test_what_epel_10_needs_is_called_otherwise_by_each(system: str, repository: str) -> None:
    on = host((system, "10.1", ALMA_10[2]))
    assert made(on, key_fingerprint="0" * 40)["enable_repository"] == repository
    assert made(host(ROCKY_9))["enable_repository"] == ""


def test_ubuntus_signed_modules() -> None:
    result = made(host(UBUNTU_24), source="precompiled")
    assert result["packages"] == [
        "libnvidia-compute-580-server",
        "nvidia-utils-580-server",
        "nvidia-compute-utils-580-server",
        "nvidia-headless-no-dkms-580-server-open",
        "linux-modules-nvidia-580-server-open-generic",
    ]
    assert result["dkms"] is False
    assert "nvidia-dkms-580-server-open" in result["instead_of"]  # what it builds would be loaded before them
    assert not set(result["packages"]) & set(result["instead_of"])
    assert result["headers"] == result["repositories"] == []
    newer = made(host(("ubuntu", "22.04", "6.8.0-88-generic")), source="precompiled", flavour="proprietary")
    assert newer["packages"][-1] == "linux-modules-nvidia-580-server-generic-hwe-22.04"
    assert made(host(("ubuntu", "24.04", "6.8.0-1040-aws")), source="precompiled")["packages"][-1].endswith("-open-aws")
    assert made(host(UBUNTU_26), source="precompiled")["branch"] == "595"


@pytest.mark.parametrize(("system", "source"), [(ROCKY_9, "precompiled"), (DEBIAN_13, "precompiled"), (ALINUX_3, "x")])
def test_a_source_that_is_not_there_is_refused(system: tuple[str, str, str], source: str) -> None:
    assert "nvidia_driver_source" in refused(host(system), source=source)


def test_a_mirror_and_the_chinese_server() -> None:
    china = made(host(ALINUX_3), region="china")
    assert china["repositories"][0]["probe"] == (
        "https://developer.download.nvidia.cn/compute/cuda/repos/rhel8/x86_64/repodata/repomd.xml"
    )
    mirror = made(host(UBUNTU_22), repository_url="http://mirror.example.com/cuda/", key_url="http://x/key.pub")
    assert mirror["repositories"][0]["probe"] == "http://mirror.example.com/cuda/Release"
    assert mirror["key"]["url"] == "http://x/key.pub"


def test_arm_has_a_directory_of_its_own_where_it_has_one() -> None:
    assert made(host(UBUNTU_24, arch="aarch64"))["repositories"][0]["url"] == f"{CUDA}/ubuntu2404/sbsa"
    assert "is for x86_64 only" in refused(host(DEBIAN_13, arch="aarch64"))
    assert "ppc64le" in refused(host(RHEL_8, arch="ppc64le"))


# -- Secure Boot


def secure(system: tuple[str, str, str], *keys: str) -> dict[str, Any]:
    return host(system, secure_boot={"enabled": True, "signing_keys": list(keys)})


def test_secure_boot_prefers_signed_modules() -> None:
    assert made(secure(UBUNTU_24))["source"] == "precompiled"
    assert made(secure(UBUNTU_24), mok_enrolled=True)["source"] == "cuda_repo"


def test_secure_boot_stops_with_the_steps() -> None:
    said = refused(secure(DEBIAN_13))
    assert "`dkms generate_mok`" in said
    assert "`mokutil --import /var/lib/dkms/mok.pub`" in said
    assert "nvidia_driver_mok_enrolled: true" in said
    assert "`mokutil --import /etc/keys/own.der`" in refused(secure(ROCKY_9, "/etc/keys/own.der"))
    assert "nvidia_driver_source: precompiled" in refused(secure(UBUNTU_24), source="cuda_repo")
    made(secure(DEBIAN_13), mok_enrolled=True)


# -- NVSwitch


def test_the_fabric_manager_comes_with_the_switches() -> None:
    assert made(host())["fabric"] == {"matched": [], "beside": [], "service": ""}
    switches = {"nvswitches": [{"address": "0000:c4:00.0", "device_id": "10de:22a3"}]}
    fabric = made(host(ROCKY_9, **switches))["fabric"]
    assert fabric["matched"] == ["nvidia-fabricmanager", "libnvidia-nscq"]
    assert fabric["service"] == "nvidia-fabricmanager.service"
    assert made(host(UBUNTU_24, **switches), source="precompiled")["fabric"]["matched"] == [
        "nvidia-fabricmanager-580",
        "libnvidia-nscq-580",
    ]
    assert made(host(DEBIAN_13, B200, nvlink5=True))["fabric"]["beside"] == ["nvlsm", "infiniband-diags"]
    said = refused(host(DEBIAN_13, **switches), source="distribution", end_of_life="warn")
    assert "no fabric manager" in said


# -- CUDA


def test_the_driver_must_run_the_cuda_that_is_needed() -> None:
    assert made(host(), min_cuda="12.8")
    old = {"source": "distribution", "end_of_life": "warn", "min_cuda": "13.0"}
    assert "535 does not run CUDA 13.0" in refused(host(DEBIAN_12), **old)
    assert "nvidia_driver_min_cuda: 'new'" in refused(host(), min_cuda="new")


# -- recorded systems

EL = "RHEL, Rocky, AlmaLinux, Oracle Linux"
RECORDED = {
    "debian-12": "Debian 12",
    "debian-13": "Debian 13",
    "ubuntu-22.04": "Ubuntu 22.04",
    "ubuntu-24.04": "Ubuntu 24.04",
    "ubuntu-26.04": "Ubuntu 26.04",
    "rocky-8": f"{EL} 8",
    "rhel-9": f"{EL}, CentOS Stream 9",
    "rocky-9": f"{EL}, CentOS Stream 9",
    "almalinux-9": f"{EL}, CentOS Stream 9",
    "rocky-10": f"{EL}, CentOS Stream 10",
    "alinux-3": "Alibaba Cloud Linux 3",
    "amzn-2023": "Amazon Linux 2023",
    "sles-15.6": None,
}


@pytest.mark.parametrize(("name", "title"), RECORDED.items())
def test_an_os_release_is_the_system_that_it_says(name: str, title: str | None, tree: Any) -> None:
    tree.system(name)
    found = find(tree.facts("os")["os"])
    assert (found.title if found else None) == title


def test_every_system_has_an_os_release() -> None:
    assert {system.title for system in drivers.SYSTEMS} == {title for title in RECORDED.values() if title}
