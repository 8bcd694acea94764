# SPDX-License-Identifier: GPL-3.0-or-later
"""GPUs that aren't there: what the device plugin and GPU feature discovery would write on the node."""

from __future__ import annotations

from typing import Any

from rehearsal.layout import GPUS

# recorded from a node with H100 SXM5 cards
_LABELS = {
    "nvidia.com/gpu.present": "true",
    "nvidia.com/gpu.count": str(GPUS),
    "nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3",
    "nvidia.com/gpu.memory": "81559",
    "nvidia.com/gpu.family": "hopper",
    "nvidia.com/gpu.compute.major": "9",
    "nvidia.com/gpu.compute.minor": "0",
    "nvidia.com/gpu.machine": "rehearsal",
    "nvidia.com/gpu.replicas": "1",
    "nvidia.com/gpu.sharing-strategy": "none",
    "nvidia.com/mig.capable": "true",
    "nvidia.com/cuda.driver.major": "580",
    "nvidia.com/cuda.runtime.major": "13",
}


def labels() -> dict[str, Any]:
    """Patch of a Node: the labels of GPU feature discovery."""
    return {"metadata": {"labels": _LABELS}}


def resources(count: int = GPUS) -> dict[str, Any]:
    """Patch of a Node's status: an extended resource, the way Kubernetes documents for resources without a plugin."""
    amount = {"nvidia.com/gpu": str(count)}
    return {"status": {"capacity": amount, "allocatable": amount}}
