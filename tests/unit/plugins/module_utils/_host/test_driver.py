# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import lzma

from ansible_collections.gpuops.nim.plugins.module_utils._host import facts

UBUNTU_580_OPEN = {
    "nvidia-headless-no-dkms-580-server-open": "580.159.04-0ubuntu0.24.04.1",
    "linux-modules-nvidia-580-server-open-6.8.0-87-generic": "6.8.0-87.88+1",
    "libnvidia-compute-580-server": "580.159.04-0ubuntu0.24.04.1",
    "nvidia-kernel-common-580-server": "580.159.04-0ubuntu0.24.04.1",
}
DEBIAN_12 = {
    "nvidia-kernel-dkms": "535.261.03-1~deb12u1",
    "nvidia-kernel-support": "535.261.03-1~deb12u1",
    "libcuda1": "535.261.03-1~deb12u1",
    "nvidia-smi": "535.261.03-1~deb12u1",
}
EL_9_OPEN = {
    "kmod-nvidia-open-dkms": "580.159.04-1.el9",
    "nvidia-driver-cuda-libs": "580.159.04-1.el9",
    "nvidia-kmod-common": "580.159.04-1.el9",
}
SUSE = {
    "nvidia-open-driver-G06-signed-cuda-kmp-default": "580.159.04_k6.4.0_150600.21-150600.1.1",
    "nvidia-compute-G06": "580.159.04-1",
}
MODULE = b"\x7fELF\x02\0license=Dual MIT/GPL\0author=nobody\0version=580.159.04\0supported=external\0"


def library(tree, version, folder="/usr/lib/x86_64-linux-gnu"):
    tree.file(f"{folder}/libcuda.so.{version}")
    tree.link(f"{folder}/libcuda.so.1", f"libcuda.so.{version}")


def module(tree, release, content=MODULE, path="updates/dkms/nvidia.ko"):
    tree.file(f"/lib/modules/{release}/modules.dep", f"kernel/fs/ext4.ko:\n{path}: kernel/drivers/acpi/video.ko\n")
    tree.file(f"/lib/modules/{release}/{path}", content)


def test_a_host_without_a_driver(tree):
    tree.kernel("6.1.0-28-amd64", "6.1.0-28-amd64")
    host = tree.facts("driver")
    assert host["driver"] == {
        "loaded": None,
        "installed": None,
        "dkms": [],
        "reboot_needed": False,
        "reboot_reason": None,
        "ready_for_next_kernel": None,
    }
    assert host["problems"] == []


def test_precompiled_open_modules_of_ubuntu(tree):
    tree.kernel("6.8.0-87-generic", "6.8.0-87-generic")
    tree.dpkg(UBUNTU_580_OPEN)
    library(tree, "580.159.04")
    tree.loaded("580.159.04")
    host = tree.facts("driver")
    assert host["driver"]["loaded"] == {"version": "580.159.04", "flavour": "open"}
    assert host["driver"]["installed"] == {"version": "580.159.04", "flavour": "open", "method": "package"}
    assert host["driver"]["reboot_needed"] is False
    assert host["problems"] == []


def test_debians_proprietary_driver(tree):
    tree.kernel("6.1.0-28-amd64", "6.1.0-28-amd64")
    tree.dpkg(DEBIAN_12)
    library(tree, "535.261.03", "/usr/lib/x86_64-linux-gnu/nvidia/current")
    tree.loaded("535.261.03", "proprietary")
    found = tree.facts("driver")["driver"]
    assert found["loaded"] == {"version": "535.261.03", "flavour": "proprietary"}
    assert found["installed"] == {"version": "535.261.03", "flavour": "proprietary", "method": "package"}


def test_el_9_by_rpm(tree):
    tree.kernel("5.14.0-570.el9.x86_64", "5.14.0-570.el9.x86_64")
    tree.rpm(EL_9_OPEN)
    found = tree.facts("driver")["driver"]
    assert found["installed"] == {"version": "580.159.04", "flavour": "open", "method": "package"}


def test_rpm_is_not_asked_for_another_root(tree):
    tree.rpm(EL_9_OPEN)
    tree.printed.clear()
    library(tree, "580.159.04", "/usr/lib64")
    host = facts.gather(str(tree.root), ["driver"])
    assert host["driver"]["installed"] == {"version": "580.159.04", "flavour": None, "method": "unknown"}
    assert [problem["what"] for problem in host["problems"]] == ["packages"]


def test_suses_signed_modules(tree):
    tree.rpm(SUSE)
    found = tree.facts("driver")["driver"]
    assert found["installed"] == {"version": "580.159.04", "flavour": "open", "method": "package"}


def test_nvidias_own_installer(tree):
    tree.kernel("6.8.0-87-generic", "6.8.0-87-generic")
    tree.file("/usr/bin/nvidia-uninstall")
    library(tree, "580.159.04")
    module(tree, "6.8.0-87-generic", path="kernel/drivers/video/nvidia.ko")
    host = tree.facts("driver", "managers")
    assert host["driver"]["installed"] == {"version": "580.159.04", "flavour": "open", "method": "runfile"}
    assert host["managers"] == [{"name": "runfile", "evidence": "/usr/bin/nvidia-uninstall"}]


def test_a_driver_in_the_gpu_operators_container_is_not_installed(tree):
    tree.loaded("580.159.04")
    library(tree, "580.159.04", "/run/nvidia/driver/usr/lib/x86_64-linux-gnu")
    found = tree.facts("driver")["driver"]
    assert found["loaded"] == {"version": "580.159.04", "flavour": "open"}
    assert (found["installed"], found["reboot_needed"]) == (None, False)


def test_the_taint_tells_the_flavour_where_proc_does_not(tree):
    tree.file("/sys/module/nvidia/version", "580.159.04\n")
    for taint, flavour in (("POE", "proprietary"), ("OE", "open")):
        tree.file("/sys/module/nvidia/taint", f"{taint}\n")
        assert tree.facts("driver")["driver"]["loaded"] == {"version": "580.159.04", "flavour": flavour}


def test_an_upgrade_under_a_loaded_driver_needs_a_reboot(tree):
    tree.loaded("580.95.05")
    tree.dpkg({"nvidia-dkms-580-open": "580.159.04-0ubuntu0.24.04.1"})
    found = tree.facts("driver")["driver"]
    assert found["reboot_needed"] is True
    assert found["reboot_reason"] == "Driver 580.95.05 is loaded, 580.159.04 is installed."


def test_the_open_modules_of_nvidias_repository_for_debian(tree):
    tree.dpkg({"nvidia-kernel-open-dkms": "580.159.04-1"})
    installed = tree.facts("driver")["driver"]["installed"]
    assert installed == {"version": "580.159.04", "flavour": "open", "method": "package"}


def test_another_flavour_needs_a_reboot(tree):
    tree.loaded("580.159.04", "proprietary")
    tree.dpkg({"nvidia-dkms-580-open": "580.159.04-0ubuntu0.24.04.1"})
    reason = tree.facts("driver")["driver"]["reboot_reason"]
    assert reason == "The proprietary kernel modules are loaded, the open ones are installed."


def test_nouveau_has_to_go_first(tree):
    tree.folder("/sys/module/nouveau")
    tree.dpkg(DEBIAN_12)
    found = tree.facts("driver", "nouveau")
    assert found["driver"]["reboot_reason"] == "nouveau is loaded, driver 535.261.03 is installed."
    assert found["nouveau"] == {"loaded": True, "blacklisted": False}


def test_nouveau_beside_a_loaded_driver_is_in_nobodys_way(tree):
    tree.folder("/sys/module/nouveau")
    tree.loaded("535.261.03", "proprietary")
    tree.dpkg(DEBIAN_12)
    found = tree.facts("driver", "nouveau")
    assert found["nouveau"]["loaded"] is True
    assert (found["driver"]["reboot_needed"], found["driver"]["reboot_reason"]) == (False, None)


def test_modules_for_the_next_kernel_alone(tree):
    tree.kernel("6.1.0-9-amd64", "6.1.0-9-amd64", "6.1.0-28-amd64")
    tree.dpkg(DEBIAN_12)
    module(tree, "6.1.0-28-amd64", path="updates/dkms/nvidia-current.ko")
    reason = tree.facts("driver")["driver"]["reboot_reason"]
    assert reason == "Driver 535.261.03 was built for kernel 6.1.0-28-amd64, 6.1.0-9-amd64 is running."


def test_a_next_kernel_without_modules_would_take_the_gpus_away(tree):
    tree.kernel("6.1.0-9-amd64", "6.1.0-9-amd64", "6.1.0-28-amd64")
    tree.dpkg(DEBIAN_12)
    tree.loaded("535.261.03", "proprietary")
    module(tree, "6.1.0-9-amd64", path="updates/dkms/nvidia-current.ko")
    found = tree.facts("driver")["driver"]
    assert (found["reboot_needed"], found["ready_for_next_kernel"]) == (False, False)
    module(tree, "6.1.0-28-amd64", path="updates/dkms/nvidia-current.ko")
    assert tree.facts("driver")["driver"]["ready_for_next_kernel"] is True


def test_modules_for_the_running_kernel_can_be_loaded_without_a_reboot(tree):
    tree.kernel("6.1.0-9-amd64", "6.1.0-9-amd64", "6.1.0-28-amd64")
    tree.dpkg(DEBIAN_12)
    for release in ("6.1.0-9-amd64", "6.1.0-28-amd64"):
        module(tree, release, path="updates/dkms/nvidia-current.ko")
    assert tree.facts("driver")["driver"]["reboot_needed"] is False


def test_libraries_of_another_version_than_the_modules(tree):
    tree.dpkg({"nvidia-dkms-580-open": "580.159.04-0ubuntu0.24.04.1"})
    library(tree, "580.178.04")
    host = tree.facts("driver")
    assert host["driver"]["installed"]["version"] == "580.159.04"
    assert host["problems"] == [
        {"what": "driver", "why": "Kernel modules of 580.159.04 and libraries of 580.178.04 are installed."}
    ]


def test_a_package_that_dpkg_left_halfway(tree):
    tree.dpkg({"nvidia-dkms-580-open": "580.159.04-0ubuntu0.24.04.1"}, state="half-configured")
    host = tree.facts("driver")
    assert host["driver"]["installed"]["version"] == "580.159.04"
    assert host["problems"] == [{"what": "package nvidia-dkms-580-open", "why": "dpkg left it half-configured."}]


def test_a_removed_package_whose_settings_stayed_is_not_installed(tree):
    tree.dpkg(DEBIAN_12, state="config-files")
    assert tree.facts("driver")["driver"]["installed"] is None


def test_a_compressed_module_tells_its_license(tree):
    tree.kernel("5.14.0-570.el9.x86_64", "5.14.0-570.el9.x86_64")
    library(tree, "580.159.04", "/usr/lib64")
    module(tree, "5.14.0-570.el9.x86_64", lzma.compress(MODULE), "extra/nvidia.ko.xz")
    assert tree.facts("driver")["driver"]["installed"]["flavour"] == "open"


def test_a_truncated_module_is_a_problem(tree):
    tree.kernel("5.14.0-570.el9.x86_64", "5.14.0-570.el9.x86_64")
    library(tree, "580.159.04", "/usr/lib64")
    module(tree, "5.14.0-570.el9.x86_64", lzma.compress(MODULE)[:40], "extra/nvidia.ko.xz")
    host = tree.facts("driver")
    assert host["driver"]["installed"] == {"version": "580.159.04", "flavour": None, "method": "unknown"}
    assert host["problems"][0]["what"] == "/lib/modules/5.14.0-570.el9.x86_64/extra/nvidia.ko.xz"


def test_modinfo_tells_what_zstd_hides(tree):
    tree.kernel("6.17.0-8-generic", "6.17.0-8-generic")
    library(tree, "580.159.04")
    module(tree, "6.17.0-8-generic", b"\x28\xb5\x2f\xfd", "updates/dkms/nvidia.ko.zst")
    tree.printed["modinfo"] = "filename: nvidia.ko.zst\nversion:        580.159.04\nlicense:        NVIDIA\n"
    assert tree.facts("driver")["driver"]["installed"]["flavour"] == "proprietary"
