# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""Private. Others that manage the driver or the toolkit of this host."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Optional

from ansible_collections.gpuops.nim.plugins.module_utils._host.driver import RUNFILE
from ansible_collections.gpuops.nim.plugins.module_utils._host.host import Host

DGX_OS = ("/etc/dgx-release",)
# its validator's marks, its driver's and its toolkit's container
GPU_OPERATOR = (
    "/run/nvidia/validations/driver-ready",
    "/run/nvidia/validations/toolkit-ready",
    "/run/nvidia/driver/usr/bin/nvidia-smi",
    "/usr/local/nvidia/toolkit/nvidia-container-runtime",
)
# Alibaba Cloud's Kubernetes keeps a file of kubelet options of its own, and gives the kubelet labels of its node pool
ACK_OPTIONS = "/etc/kubernetes/kubelet-customized-args.conf"
ACK_LABELS = ("alibabacloud.com/nodepool-id=", "ack.aliyun.com=")
KUBELET_FOLDERS = ("/etc/systemd/system/kubelet.service.d", "/usr/lib/systemd/system/kubelet.service.d")
KUBELET_FILES = ("/etc/systemd/system/kubelet.service", "/etc/default/kubelet", "/etc/sysconfig/kubelet")


def find(host: Host) -> list[dict[str, str]]:
    evidence = {
        "dgx_os": host.first(*DGX_OS),
        "gpu_operator": ", ".join(path for path in GPU_OPERATOR if host.exists(path)),
        "ack": _ack(host),
        "runfile": host.first(RUNFILE),
    }
    return [{"name": name, "evidence": found} for name, found in evidence.items() if found]


def _ack(host: Host) -> Optional[str]:
    if host.exists(ACK_OPTIONS):
        return ACK_OPTIONS
    for path in _kubelet_files(host):
        text = host.read(path) or ""
        label = next((label for label in ACK_LABELS if label in text), None)
        if label:
            return f"{label} in {path}"
    return None


def _kubelet_files(host: Host) -> Iterator[str]:
    for folder in KUBELET_FOLDERS:
        yield from (f"{folder}/{name}" for name in host.names(folder))
    yield from filter(host.exists, KUBELET_FILES)
