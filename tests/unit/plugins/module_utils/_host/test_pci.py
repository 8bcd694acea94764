# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import pytest

from ansible_collections.gpuops.nim.plugins.module_utils._host import cards


def test_an_h100_with_its_driver(tree):
    tree.device("0000:00:06.0", "2330", driver="nvidia")
    assert tree.facts("gpus")["gpus"] == [
        {
            "address": "0000:00:06.0",
            "device_id": "10de:2330",
            "name": "NVIDIA H100 80GB HBM3",
            "generation": "hopper",
            "memory_mib": 81920,
            "kernel_driver": "nvidia",
        }
    ]


def test_the_table_says_what_a_real_h100_says(tree):
    names, values = (line.split(", ") for line in tree.recorded("h100-query-gpu.csv").splitlines())
    told = dict(zip(names, values, strict=True))
    tree.device(told["pci.bus_id"][4:].lower(), "2330")
    gpu = tree.facts("gpus")["gpus"][0]
    assert (gpu["address"], gpu["name"]) == ("0000:00:06.0", told["name"])
    assert 0.99 * gpu["memory_mib"] < int(told["memory.total [MiB]"].removesuffix(" MiB")) <= gpu["memory_mib"]


def test_what_is_no_gpu_does_not_count(tree):
    tree.device("0000:01:00.0", "1eb8")
    tree.device("0000:01:00.1", "10f8", pci_class="0x040300")  # a card's sound
    tree.file("/sys/bus/pci/devices/0000:00:02.0/vendor", "0x8086\n")
    tree.file("/sys/bus/pci/devices/0000:00:02.0/device", "0x3ea0\n")
    tree.file("/sys/bus/pci/devices/0000:00:02.0/class", "0x030000\n")
    assert [gpu["address"] for gpu in tree.facts("gpus")["gpus"]] == ["0000:01:00.0"]


def test_hgx_h100(tree):
    for number in range(8):
        tree.device(f"0000:{number}a:00.0", "2330", driver="nvidia")
    for number in range(4):
        tree.device(f"0000:8{number}:00.0", "22a3", pci_class="0x068000", driver="nvidia-nvswitch")
    host = tree.facts("gpus", "nvswitches", "nvlink5")
    assert len(host["gpus"]) == 8
    assert host["nvswitches"][0] == {"address": "0000:80:00.0", "device_id": "10de:22a3"}
    assert len(host["nvswitches"]) == 4
    assert host["nvlink5"] is False
    assert host["problems"] == []


def test_hgx_b200(tree):
    tree.device("0000:1b:00.0", "2901")
    tree.file("/sys/class/infiniband/mlx5_0/device/vpd", b"\x82\x10\x00plain adapter\x00")
    tree.file("/sys/class/infiniband/mlx5_1/device/vpd", b"\x82\x10\x00V3 SW_MNG\xff\x00")
    host = tree.facts("nvlink5", "nvswitches")
    assert (host["nvlink5"], host["nvswitches"], host["problems"]) == (True, [], [])


def test_a_b200_whose_switches_cannot_be_seen(tree):
    tree.device("0000:1b:00.0", "2901")
    host = tree.facts("nvlink5")
    assert host["nvlink5"] is False
    assert "mlx5_ib" in host["problems"][0]["why"]


def test_a_plain_blackwell_card_has_no_nvlink_to_look_for(tree):
    tree.device("0000:1b:00.0", "2bb5")
    host = tree.facts("nvlink5")
    assert (host["nvlink5"], host["problems"]) == (False, [])


def test_the_loaded_drivers_name_wins(tree):
    tree.device("0000:00:06.0", "25b6")
    tree.file("/proc/driver/nvidia/gpus/0000:00:06.0/information", "Model: \t\t NVIDIA A16\nIRQ:   \t\t 44\n")
    assert tree.facts("gpus")["gpus"][0]["name"] == "NVIDIA A16"


def test_a_card_that_is_too_new_for_the_table(tree):
    tree.device("0000:01:00.0", "3040")
    gpu = tree.facts("gpus")["gpus"][0]
    assert (gpu["device_id"], gpu["name"], gpu["generation"], gpu["memory_mib"]) == ("10de:3040", None, None, None)


@pytest.mark.parametrize("driver", ["nouveau", "vfio-pci", None])
def test_who_has_the_card(tree, driver):
    tree.device("0000:01:00.0", "1eb8", driver=driver)
    assert tree.facts("gpus")["gpus"][0]["kernel_driver"] == driver


@pytest.mark.parametrize(
    ("device", "generation"),
    [
        ("17fd", "maxwell"),
        ("1b38", "pascal"),
        ("1db6", "volta"),
        ("1eb8", "turing"),
        ("20b5", "ampere"),
        ("26b9", "ada"),
        ("2335", "hopper"),
        ("2bb5", "blackwell"),
        ("102d", None),  # Kepler
        ("22a3", None),  # an NVSwitch
    ],
)
def test_generations(device, generation):
    assert cards.describe(device)["generation"] == generation


def test_every_card_of_the_table_has_a_generation():
    assert {device for device in cards.CARDS if not cards.describe(device)["generation"]} == set()


def test_no_number_is_of_two_generations():
    ends = [number for first, last, _ in cards.GENERATIONS for number in (first, last)]
    assert ends == sorted(ends)
