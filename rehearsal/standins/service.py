# SPDX-License-Identifier: GPL-3.0-or-later
"""One Service without kube-proxy: ``python -m rehearsal.standins.service FROM TO`` passes connections on.

Programs in pods look for the API server at the address of its Service.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await source.read(1 << 16):
            target.write(data)
            await target.drain()
    with contextlib.suppress(OSError):
        target.close()


async def _serve(here: str, there: str) -> None:
    host, _, port = there.rpartition(":")

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection(host, int(port))
        except OSError:
            writer.close()
            return
        await asyncio.gather(_copy(reader, far_writer), _copy(far_reader, writer))

    own, _, own_port = here.rpartition(":")
    async with await asyncio.start_server(take, own, int(own_port)) as server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(*sys.argv[1:3]))
