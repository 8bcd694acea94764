# SPDX-License-Identifier: GPL-3.0-or-later
"""A model server's smallest contract around a real computation: what the GPU path serves in NIM's place.

It answers as NIM does (health, models, chat). What it says to any question is what it found when it started: the GPUs
that the container was given, and whether a matrix product on each of them is right.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import torch

SIZE = 4096
MODEL = "gpu-path/matrix-product"


def compute() -> str:
    assert torch.cuda.is_available(), "torch finds no GPU in this container"
    torch.manual_seed(1)
    left, right = torch.randn(2, SIZE, SIZE, dtype=torch.float64)
    here, gpus = left @ right, range(torch.cuda.device_count())
    error = max((here - (left.cuda(gpu) @ right.cuda(gpu)).cpu()).abs().max().item() for gpu in gpus)
    assert error < 1e-9, f"the product is wrong by {error}"
    nodes = sorted(name for name in os.listdir("/dev") if name.startswith("nvidia"))
    return (
        f"{len(gpus)} x {torch.cuda.get_device_name()}: a product of {SIZE} x {SIZE} matrices is right "
        f"to {error:.0e}; devices {', '.join(nodes)}; torch {torch.__version__}"
    )


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    found = ""

    def do_GET(self) -> None:
        self._say({"object": "list", "data": [{"id": MODEL, "object": "model"}]})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        choice = {"index": 0, "message": {"role": "assistant", "content": self.found}, "finish_reason": "stop"}
        self._say({"id": "1", "object": "chat.completion", "model": MODEL, "choices": [choice]})

    def _say(self, answer: dict[str, object]) -> None:
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # the first process of a container gets no other end
    Handler.found = compute()
    print(Handler.found, flush=True)
    ThreadingHTTPServer(("0.0.0.0", 8000), Handler).serve_forever()
