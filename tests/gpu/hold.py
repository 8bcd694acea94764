# SPDX-License-Identifier: GPL-3.0-or-later
"""Computes on the GPU through the driver's own interface: once, or as long as the container lives.

Needs nothing but Python and libcuda.so.1, which is not in the image: CDI brings it. Each new process opens the device
nodes anew, which is what a cgroup's rules decide on.
"""

from __future__ import annotations

import ctypes
import os
import sys
import time
from pathlib import Path

WORDS = 1 << 20


def main(forever: bool) -> None:
    cuda = ctypes.CDLL("libcuda.so.1")

    def call(name: str, *arguments: object) -> None:
        code = getattr(cuda, name)(*arguments)
        assert code == 0, f"{name} fails with CUDA error {code}"

    call("cuInit", 0)
    count, device, context, memory = ctypes.c_int(), ctypes.c_int(), ctypes.c_void_p(), ctypes.c_uint64()
    call("cuDeviceGetCount", ctypes.byref(count))
    call("cuDeviceGet", ctypes.byref(device), 0)
    call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
    call("cuCtxSetCurrent", context)
    call("cuMemAlloc_v2", ctypes.byref(memory), ctypes.c_size_t(4 * WORDS))
    node = next(path for path in Path("/dev").glob("nvidia*") if path.name[6:].isdigit())
    back, turn = (ctypes.c_uint32 * WORDS)(), 0
    while True:
        turn += 1
        os.close(os.open(node, os.O_RDWR))  # anew: what is open already stays so
        call("cuMemsetD32_v2", memory, ctypes.c_uint(turn), ctypes.c_size_t(WORDS))
        call("cuMemcpyDtoH_v2", back, memory, ctypes.c_size_t(4 * WORDS))
        assert set(back) == {turn}, "the GPU's memory does not hold what it was set to"
        print(f"{count.value} GPU, its memory was right {turn} times", flush=True)
        if not forever:
            return
        time.sleep(0.5)


if __name__ == "__main__":
    main(forever=sys.argv[1:] == ["forever"])
