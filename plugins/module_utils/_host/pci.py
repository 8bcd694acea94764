# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""Private. NVIDIA's devices on the PCI bus."""

from __future__ import annotations

from typing import Any, Optional

from ansible_collections.gpuops.nim.plugins.module_utils._host import cards
from ansible_collections.gpuops.nim.plugins.module_utils._host.host import Host

DEVICES = "/sys/bus/pci/devices"
NVIDIA = "0x10de"
DISPLAY = ("0x0300", "0x0302")  # VGA, 3D
BRIDGE = "0x0680"  # what an NVSwitch says that it is
MODEL = "Model:"
INFINIBAND = "/sys/class/infiniband"
NVLINK5_SWITCH = b"SW_MNG"  # in the vital product data of the adapter that manages NVSwitches of NVLink 5
NVLINK5_CARDS = {"10de:2901", "10de:3182"}  # B200 and B300, as HGX boards have them


def gpus(host: Host) -> list[dict[str, Any]]:
    return [
        {
            "address": address,
            "device_id": f"10de:{device}",
            **cards.describe(device),
            **_as_told(host, address),
            "kernel_driver": _kernel_driver(host, address),
        }
        for address, device in _devices(host, DISPLAY)
    ]


def nvswitches(host: Host) -> list[dict[str, str]]:
    return [{"address": address, "device_id": f"10de:{device}"} for address, device in _devices(host, (BRIDGE,))]


def nvlink5(host: Host) -> bool:
    if not any(gpu["generation"] == "blackwell" for gpu in gpus(host)):
        return False  # no other has it, and reading product data takes its time
    adapters = host.names(INFINIBAND)
    if not adapters and any(gpu["device_id"] in NVLINK5_CARDS for gpu in gpus(host)):
        host.problem("nvlink5", "No InfiniBand adapter is here. Without mlx5_core and mlx5_ib, NVLink 5 can't be seen.")
    return any(NVLINK5_SWITCH in (host.read_bytes(f"{INFINIBAND}/{name}/device/vpd") or b"") for name in adapters)


def _devices(host: Host, classes: tuple[str, ...]) -> list[tuple[str, str]]:
    """Address and device number of those of the classes."""
    return [
        (address, _number(host, address, "device")[2:])
        for address in host.names(DEVICES)
        if _number(host, address, "vendor") == NVIDIA and _number(host, address, "class").startswith(classes)
    ]


def _number(host: Host, address: str, name: str) -> str:
    return (host.read(f"{DEVICES}/{address}/{name}") or "").strip().lower()


def _kernel_driver(host: Host, address: str) -> Optional[str]:
    link = host.link(f"{DEVICES}/{address}/driver")
    return link.rpartition("/")[2] if link else None


def _as_told(host: Host, address: str) -> dict[str, str]:
    """The name that the loaded driver gives the card."""
    for line in host.lines(f"/proc/driver/nvidia/gpus/{address}/information"):
        name = line[len(MODEL) :].strip()
        if line.startswith(MODEL) and name not in ("", "Unknown"):
            return {"name": name}
    return {}
