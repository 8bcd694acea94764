# SPDX-License-Identifier: GPL-3.0-or-later
"""Whole hosts, as a role meets them."""

from __future__ import annotations

import os
import time

from ansible_collections.gpuops.nim.plugins.module_utils._host import facts

H100 = "0000:00:06.0"
UBUNTU = {
    "nvidia-dkms-580-server-open": "580.159.04-0ubuntu0.24.04.1",
    "libnvidia-compute-580-server": "580.159.04-0ubuntu0.24.04.1",
    "nvidia-container-toolkit": "1.20.0-1",
    "nvidia-container-toolkit-base": "1.20.0-1",
    "libnvidia-container-tools": "1.20.0-1",
    "libnvidia-container1": "1.20.0-1",
    "containerd.io": "2.1.5-1~ubuntu.24.04~noble",
}
RUNNING = "6.8.0-87-generic"


def gpu_node(tree):
    tree.system("ubuntu-24.04")
    tree.kernel(RUNNING, RUNNING, headers=[RUNNING])
    tree.device(H100, "2330", driver="nvidia")
    tree.loaded("580.159.04")
    tree.dpkg(UBUNTU)
    tree.dkms("nvidia", "580.159.04", installed=[RUNNING])
    tree.file("/usr/lib/x86_64-linux-gnu/libcuda.so.580.159.04")
    tree.file("/etc/modprobe.d/blacklist-nouveau.conf", "blacklist nouveau\n")
    tree.folder("/sys/firmware/acpi")
    tree.file("/usr/bin/containerd")
    tree.file("/usr/bin/nvidia-container-runtime")
    for name, path in (("v3", "config.toml"), ("v3-nvidia", "conf.d/99-nvidia.toml")):
        tree.file(f"/etc/containerd/{path}", tree.recorded(f"containerd/{name}.toml"))
    tree.file("/run/cdi/nvidia.yaml", tree.recorded("nvidia-cdi.yaml.recorded"))


def test_a_gpu_node_in_order(tree):
    gpu_node(tree)
    host = tree.facts()
    assert host["problems"] == []
    assert (host["os"]["id"], host["os"]["version"]) == ("ubuntu", "24.04")
    assert host["gpus"][0]["generation"] == "hopper"
    assert host["driver"]["installed"] == {"version": "580.159.04", "flavour": "open", "method": "package"}
    assert host["driver"]["reboot_needed"] is False
    assert host["toolkit"]["version"] == "1.20.0"
    assert [(runtime["nvidia_handler"], runtime["problems"]) for runtime in host["runtimes"]] == [(True, [])]
    assert (host["cdi"]["stale"], host["users"], host["managers"]) == (False, [], [])


def test_a_cpu_only_host(tree):
    tree.system("debian-13")
    tree.kernel("6.12.57+deb13-amd64", "6.12.57+deb13-amd64")
    tree.folder("/sys/firmware/acpi")
    tree.folder("/sys/bus/pci/devices")
    host = tree.facts()
    assert host["problems"] == []
    assert (host["gpus"], host["runtimes"], host["users"], host["toolkit"]) == ([], [], [], None)
    assert (host["driver"]["loaded"], host["driver"]["installed"]) == (None, None)


def test_an_empty_folder(tree):
    tree.root.mkdir()
    host = tree.facts()
    assert [problem["what"] for problem in host["problems"]] == ["/etc/os-release"]
    assert set(host) == {*facts.PARTS, "problems"}


def test_only_what_was_asked_for(tree):
    gpu_node(tree)
    assert set(tree.facts("users", "gpus")) == {"users", "gpus", "problems"}


def files_of(tree):
    return [path for path in tree.root.rglob("*") if path.is_file() and not path.is_symlink()]


def test_no_broken_file_takes_the_others_with_it(tree):
    """Each file in turn is a folder, is empty, is cut off and holds other bytes: an answer of the same shape."""
    gpu_node(tree)
    shape = {part: type(value) for part, value in tree.facts().items()}
    for path in files_of(tree):
        content = path.read_bytes()
        path.unlink()
        path.mkdir()
        assert_answers(tree, shape, f"{path} is a folder")
        path.rmdir()
        for broken in (b"", content[: len(content) // 2], b"\xff\xfe\x00" + content):
            path.write_bytes(broken)
            assert_answers(tree, shape, f"{path} holds {broken[:100]!r}")
        path.write_bytes(content)


def assert_answers(tree, shape, why):
    host = tree.facts()
    assert [problem for problem in host["problems"] if problem["why"].partition(":")[0].endswith("Error")] == [], why
    assert {part: type(value) for part, value in host.items() if part != "toolkit"}.items() <= shape.items(), why


def test_a_fault_of_our_own_costs_one_part(tree, monkeypatch):
    def trip(host):
        raise LookupError("a file nobody thought of")

    gpu_node(tree)
    monkeypatch.setitem(facts.PARTS, "cdi", (trip, {"specs": [], "stale": False}))
    host = tree.facts()
    assert host["cdi"] == {"specs": [], "stale": False}
    assert host["problems"] == [{"what": "cdi", "why": "LookupError: a file nobody thought of"}]
    assert host["gpus"][0]["generation"] == "hopper"


def test_a_host_with_5000_processes(tree, capsys):
    gpu_node(tree)
    for pid in range(1, 5001):
        folder = tree.root / f"proc/{pid}/fd"
        folder.mkdir(parents=True)
        for number in range(10):
            os.symlink("/dev/null", folder / str(number))
    tree.process(6000, "python3", "0::/\n", "/dev/nvidia0")
    start = time.monotonic()
    host = tree.facts()
    took = time.monotonic() - start
    assert [user["pid"] for user in host["users"]] == [6000]
    with capsys.disabled():
        print(f"\n5001 processes, 50001 open files: all facts in {took:.2f} s")
