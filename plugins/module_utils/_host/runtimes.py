# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""Private. Container runtimes, and what they were told about GPUs."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ansible_collections.gpuops.nim.plugins.module_utils._host import containerd, crio, docker
from ansible_collections.gpuops.nim.plugins.module_utils._host.host import Host


def find(host: Host) -> list[dict[str, Any]]:
    return [asdict(runtime) for runtime in (*containerd.find(host), *crio.find(host), *docker.find(host))]
