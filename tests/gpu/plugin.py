# SPDX-License-Identifier: GPL-3.0-or-later
"""Tells the rehearsal's kubelet of the machine's real GPUs, by the names that the CDI specification has for them.

The program is the rehearsal's, the devices are not made up: what the kubelet hands on, containerd looks up in CDI.
"""

from __future__ import annotations

import sys
from pathlib import Path

import yaml

from rehearsal.standins.device_plugin import SOCKETS, Plugin

KIND = "nvidia.com/gpu"


def main(specification: str) -> None:
    devices = [str(each["name"]) for each in yaml.safe_load(Path(specification).read_text())["devices"]]
    numbers = [name for name in devices if name.isdigit()]
    plugin = Plugin(KIND, numbers, ["cdi-cri"])
    server = plugin.serve(SOCKETS / "gpu-path.sock")
    plugin.register(SOCKETS, "gpu-path.sock")
    print(f"{KIND}: {', '.join(numbers)} of {', '.join(devices)}", flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    main(sys.argv[1])
