# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""Private. What a PCI device number says about an NVIDIA GPU. As of 2026-11-22.

Sources: the list of supported GPUs in the README of NVIDIA's open kernel modules (March 2026) for the names, which are
the ones that the driver tells; the PCI ID database (2026-08-22) for the chips; data sheets for the memory.
"""

from __future__ import annotations

from typing import Any, Optional

# From the first to the last device of a generation in each run of numbers that no other one shares. A number outside of
# all may be an older or a newer GPU, and stays without a generation.
GENERATIONS = (
    (0x1340, 0x1436, "maxwell"),
    (0x15C2, 0x15FF, "pascal"),
    (0x1613, 0x1676, "maxwell"),
    (0x1725, 0x172F, "pascal"),
    (0x174D, 0x17FD, "maxwell"),
    (0x1B00, 0x1D56, "pascal"),
    (0x1D81, 0x1DF6, "volta"),
    (0x1E02, 0x1FF9, "turing"),
    (0x2080, 0x20FF, "ampere"),
    (0x2182, 0x21D1, "turing"),
    (0x2200, 0x223F, "ampere"),
    (0x2302, 0x23F0, "hopper"),
    (0x2414, 0x25FB, "ampere"),
    (0x2681, 0x28F8, "ada"),
    (0x2900, 0x2F7F, "blackwell"),
    (0x3180, 0x323E, "blackwell"),
)

# device: (name, GiB of memory; None where cards of one number differ, or share the host's)
CARDS: dict[str, tuple[str, Optional[int]]] = {
    # Maxwell
    "13bd": ("Tesla M10", 8),
    "13c0": ("NVIDIA GeForce GTX 980", 4),
    "13c2": ("NVIDIA GeForce GTX 970", 4),
    "13f2": ("Tesla M60", 8),
    "13f3": ("Tesla M6", 8),
    "1431": ("Tesla M4", 4),
    "17c2": ("NVIDIA GeForce GTX TITAN X", 12),
    "17c8": ("NVIDIA GeForce GTX 980 Ti", 6),
    "17f0": ("Quadro M6000", 12),
    "17f1": ("Quadro M6000 24GB", 24),
    "17fd": ("Tesla M40", None),
    # Pascal
    "15f0": ("Quadro GP100", 16),
    "15f7": ("Tesla P100-PCIE-12GB", 12),
    "15f8": ("Tesla P100-PCIE-16GB", 16),
    "15f9": ("Tesla P100-SXM2-16GB", 16),
    "1b00": ("NVIDIA TITAN X (Pascal)", 12),
    "1b02": ("NVIDIA TITAN Xp", 12),
    "1b06": ("NVIDIA GeForce GTX 1080 Ti", 11),
    "1b30": ("Quadro P6000", 24),
    "1b38": ("Tesla P40", 24),
    "1b80": ("NVIDIA GeForce GTX 1080", 8),
    "1b81": ("NVIDIA GeForce GTX 1070", 8),
    "1b82": ("NVIDIA GeForce GTX 1070 Ti", 8),
    "1bb0": ("Quadro P5000", 16),
    "1bb1": ("Quadro P4000", 8),
    "1bb3": ("Tesla P4", 8),
    "1c03": ("NVIDIA GeForce GTX 1060 6GB", 6),
    "1c82": ("NVIDIA GeForce GTX 1050 Ti", 4),
    # Volta
    "1d81": ("NVIDIA TITAN V", 12),
    "1db1": ("Tesla V100-SXM2-16GB", 16),
    "1db2": ("Tesla V100-DGXS-16GB", 16),
    "1db3": ("Tesla V100-FHHL-16GB", 16),
    "1db4": ("Tesla V100-PCIE-16GB", 16),
    "1db5": ("Tesla V100-SXM2-32GB", 32),
    "1db6": ("Tesla V100-PCIE-32GB", 32),
    "1db7": ("Tesla V100-DGXS-32GB", 32),
    "1db8": ("Tesla V100-SXM3-32GB", 32),
    "1dba": ("Quadro GV100", 32),
    "1df6": ("Tesla V100S-PCIE-32GB", 32),
    # Turing
    "1e02": ("NVIDIA TITAN RTX", 24),
    "1e04": ("NVIDIA GeForce RTX 2080 Ti", 11),
    "1e07": ("NVIDIA GeForce RTX 2080 Ti", 11),
    "1e30": ("Quadro RTX 6000 or 8000", None),
    "1e36": ("Quadro RTX 6000", 24),
    "1e81": ("NVIDIA GeForce RTX 2080 SUPER", 8),
    "1e82": ("NVIDIA GeForce RTX 2080", 8),
    "1e84": ("NVIDIA GeForce RTX 2070 SUPER", 8),
    "1e87": ("NVIDIA GeForce RTX 2080", 8),
    "1eb0": ("Quadro RTX 5000", 16),
    "1eb1": ("Quadro RTX 4000", 8),
    "1eb8": ("Tesla T4", 16),
    "1f02": ("NVIDIA GeForce RTX 2070", 8),
    "1f03": ("NVIDIA GeForce RTX 2060", 12),
    "1f06": ("NVIDIA GeForce RTX 2060 SUPER", 8),
    "1f07": ("NVIDIA GeForce RTX 2070", 8),
    "1f08": ("NVIDIA GeForce RTX 2060", 6),
    "1ff0": ("NVIDIA T1000 8GB", 8),
    "1ff2": ("NVIDIA T400 4GB", 4),
    # Ampere
    "20b0": ("NVIDIA A100-SXM4-40GB", 40),
    "20b2": ("NVIDIA A100-SXM4-80GB", 80),
    "20b3": ("NVIDIA A100-SXM-64GB", 64),
    "20b5": ("NVIDIA A100 80GB PCIe", 80),
    "20b7": ("NVIDIA A30", 24),
    "20b8": ("NVIDIA A100X", 80),
    "20b9": ("NVIDIA A30X", 24),
    "20bd": ("NVIDIA A800-SXM4-40GB", 40),
    "20f1": ("NVIDIA A100-PCIE-40GB", 40),
    "20f3": ("NVIDIA A800-SXM4-80GB", 80),
    "20f5": ("NVIDIA A800 80GB PCIe", 80),
    "20f6": ("NVIDIA A800 40GB Active", 40),
    "2203": ("NVIDIA GeForce RTX 3090 Ti", 24),
    "2204": ("NVIDIA GeForce RTX 3090", 24),
    "2206": ("NVIDIA GeForce RTX 3080", 10),
    "2208": ("NVIDIA GeForce RTX 3080 Ti", 12),
    "220a": ("NVIDIA GeForce RTX 3080", 12),
    "2216": ("NVIDIA GeForce RTX 3080", 10),
    "2230": ("NVIDIA RTX A6000", 48),
    "2231": ("NVIDIA RTX A5000", 24),
    "2232": ("NVIDIA RTX A4500", 20),
    "2233": ("NVIDIA RTX A5500", 24),
    "2235": ("NVIDIA A40", 48),
    "2236": ("NVIDIA A10", 24),
    "2237": ("NVIDIA A10G", 24),
    "2238": ("NVIDIA A10M", None),
    "2482": ("NVIDIA GeForce RTX 3070 Ti", 8),
    "2484": ("NVIDIA GeForce RTX 3070", 8),
    "2486": ("NVIDIA GeForce RTX 3060 Ti", 8),
    "2488": ("NVIDIA GeForce RTX 3070", 8),
    "2489": ("NVIDIA GeForce RTX 3060 Ti", 8),
    "24b0": ("NVIDIA RTX A4000", 16),
    "2503": ("NVIDIA GeForce RTX 3060", 12),
    "2504": ("NVIDIA GeForce RTX 3060", None),
    "2507": ("NVIDIA GeForce RTX 3050", 8),
    "2531": ("NVIDIA RTX A2000", 6),
    "2571": ("NVIDIA RTX A2000 12GB", 12),
    "2584": ("NVIDIA GeForce RTX 3050", 6),
    "25b0": ("NVIDIA RTX A1000", 8),
    "25b2": ("NVIDIA RTX A400", 4),
    "25b6": ("NVIDIA A2 or A16", 16),
    # Hopper
    "2321": ("NVIDIA H100 NVL", 94),
    "2322": ("NVIDIA H800 PCIe", 80),
    "2324": ("NVIDIA H800", 80),
    "2329": ("NVIDIA H20", 96),
    "232c": ("NVIDIA H20-3e", 141),
    "2330": ("NVIDIA H100 80GB HBM3", 80),
    "2331": ("NVIDIA H100 PCIe", 80),
    "2335": ("NVIDIA H200", 141),
    "2339": ("NVIDIA H100", 94),
    "233a": ("NVIDIA H800 NVL", 94),
    "233b": ("NVIDIA H200 NVL", 141),
    "2342": ("NVIDIA GH200", 96),
    "2348": ("NVIDIA GH200 144G HBM3e", 144),
    # Ada
    "2684": ("NVIDIA GeForce RTX 4090", 24),
    "2685": ("NVIDIA GeForce RTX 4090 D", 24),
    "26b1": ("NVIDIA RTX 6000 Ada Generation", 48),
    "26b2": ("NVIDIA RTX 5000 Ada Generation", 32),
    "26b3": ("NVIDIA RTX 5880 Ada Generation", 48),
    "26b5": ("NVIDIA L40", 48),
    "26b9": ("NVIDIA L40S", 48),
    "26ba": ("NVIDIA L20", 48),
    "2702": ("NVIDIA GeForce RTX 4080 SUPER", 16),
    "2704": ("NVIDIA GeForce RTX 4080", 16),
    "2705": ("NVIDIA GeForce RTX 4070 Ti SUPER", 16),
    "2782": ("NVIDIA GeForce RTX 4070 Ti", 12),
    "2783": ("NVIDIA GeForce RTX 4070 SUPER", 12),
    "2786": ("NVIDIA GeForce RTX 4070", 12),
    "27b0": ("NVIDIA RTX 4000 SFF Ada Generation", 20),
    "27b1": ("NVIDIA RTX 4500 Ada Generation", 24),
    "27b2": ("NVIDIA RTX 4000 Ada Generation", 20),
    "27b6": ("NVIDIA L2", 24),
    "27b8": ("NVIDIA L4", 24),
    "2803": ("NVIDIA GeForce RTX 4060 Ti", 8),
    "2805": ("NVIDIA GeForce RTX 4060 Ti", 16),
    "2882": ("NVIDIA GeForce RTX 4060", 8),
    "28b0": ("NVIDIA RTX 2000 Ada Generation", 16),
    # Blackwell
    "2901": ("NVIDIA B200", 180),
    "2941": ("NVIDIA GB200", 186),
    "2b85": ("NVIDIA GeForce RTX 5090", 32),
    "2b87": ("NVIDIA GeForce RTX 5090 D", 32),
    "2b8c": ("NVIDIA GeForce RTX 5090 D v2", 24),
    "2bb1": ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", 96),
    "2bb3": ("NVIDIA RTX PRO 5000 Blackwell", None),
    "2bb5": ("NVIDIA RTX PRO 6000 Blackwell Server Edition", 96),
    "2c02": ("NVIDIA GeForce RTX 5080", 16),
    "2c05": ("NVIDIA GeForce RTX 5070 Ti", 16),
    "2c31": ("NVIDIA RTX PRO 4500 Blackwell", 32),
    "2c33": ("NVIDIA RTX PRO 4000 Blackwell SFF Edition", 24),
    "2c34": ("NVIDIA RTX PRO 4000 Blackwell", 24),
    "2d04": ("NVIDIA GeForce RTX 5060 Ti", None),
    "2d05": ("NVIDIA GeForce RTX 5060", 8),
    "2d30": ("NVIDIA RTX PRO 2000 Blackwell", 16),
    "2d83": ("NVIDIA GeForce RTX 5050", 8),
    "2e12": ("NVIDIA GB10", None),
    "2f04": ("NVIDIA GeForce RTX 5070", 12),
    "3182": ("NVIDIA B300 SXM6 AC", None),
    "31c2": ("NVIDIA GB300", None),
}


def describe(device: str) -> dict[str, Any]:
    """Of a device number in four lower-case hexadecimal digits."""
    name, gib = CARDS.get(device, (None, None))
    return {"name": name, "generation": _generation(device), "memory_mib": gib and gib * 1024}


def _generation(device: str) -> Optional[str]:
    try:
        number = int(device, 16)
    except ValueError:
        return None
    return next((name for first, last, name in GENERATIONS if first <= number <= last), None)
