# SPDX-License-Identifier: GPL-3.0-or-later
"""A DCGM exporter without GPUs: the settings of NVIDIA's, its series and what it refuses, made-up numbers.

It runs in the pod that the role's DaemonSet makes, and asks the kubelet's real API (podresources v1) which pod has
which GPU. STANDIN_GPUS is how many the node has; they are those of the device plugin's stand-in.
"""

from __future__ import annotations

import csv
import os
import re
import signal
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path

import grpc

KUBELET = "/var/lib/kubelet/pod-resources/kubelet.sock"
_SYS_ADMIN = 1 << 21
_OWN = ("DCGM_EXP_XID_ERRORS_COUNT", "DCGM_EXP_CLOCK_EVENTS_COUNT", "DCGM_EXP_GPU_HEALTH_STATUS", "DCGM_EXP_P2P_STATUS")
_FIELD = re.compile(r"DCGM_FI_(?:DEV|PROF|DRIVER)_[A-Z0-9_]+")
_VALUE = r'(?:"(?:[^"]|"")*"|[^",]*)'
_LINE = re.compile(f"{_VALUE}(?:,{_VALUE})*")
_TYPES = ("gauge", "counter", "histogram", "summary", "label")


class Refusal(Exception):
    """What NVIDIA's exporter ends with."""


@dataclass(frozen=True)
class Counter:
    field: str
    kind: str
    help: str


def counters(text: str) -> list[Counter]:
    """Those of a file as NVIDIA's exporter reads it."""
    lines = [line for line in text.splitlines() if line and line[0] != "#"]
    if not all(map(_LINE.fullmatch, lines)):  # Go's reader takes a quote at a value's very beginning alone
        raise Refusal('parse error: bare " in non-quoted-field')
    found = []
    for number, record in enumerate(csv.reader(lines)):
        values = [value.strip(" ") for value in record]
        if len(values) != 3:
            raise Refusal(f"malformed CSV record; err: failed to parse line {number} (`{values}`), expected 3 fields")
        counter = Counter(*values)
        if not _FIELD.fullmatch(counter.field) and counter.field not in _OWN:
            raise Refusal(f"could not find DCGM field; err: unknown ExporterCounter field '{counter.field}'")
        if counter.kind not in _TYPES:
            raise Refusal(f"could not find Prometheus metric type '{counter.kind}'")
        found.append(counter)
    return found


def watch(wanted: list[Counter], status: str) -> None:
    """DCGM needs a capability for the profiling counters; status: of the process, as /proc has it."""
    (capabilities,) = re.findall(r"^CapEff:\s*(\w+)$", status, re.M)
    if any(each.field.startswith("DCGM_FI_PROF_") for each in wanted) and not int(capabilities, 16) & _SYS_ADMIN:
        said = "Error watching fields: Host engine is running as non-root"
        raise Refusal(f"DCGM collector for entity type 'GPU' cannot be initialized; err: {said}")


def pods(socket: str, resources: tuple[str, ...]) -> dict[str, dict[str, str]]:
    """GPU: the labels of the pod that has it, as the kubelet tells."""
    if not Path(socket).exists():
        return {}
    with grpc.insecure_channel(f"unix://{socket}") as channel:
        answer = channel.unary_unary("/v1.PodResourcesLister/List")(b"", timeout=10)
    found: dict[str, dict[str, str]] = {}
    for pod in _fields(answer)[1]:
        name, namespace = (_fields(pod)[number][0].decode() for number in (1, 2))
        for container in _fields(pod)[3]:
            labels = {"container": _fields(container)[1][0].decode(), "namespace": namespace, "pod": name}
            for device in _fields(container)[2]:
                if _fields(device)[1][0].decode() in resources:
                    found |= {gpu.decode().partition("::")[0]: labels for gpu in _fields(device)[2]}
    return found


def _fields(message: bytes) -> dict[int, list[bytes]]:
    """Number: values, of a protobuf message's texts and messages. Its numbers are passed over."""
    found: dict[int, list[bytes]] = defaultdict(list)
    rest = iter(message)
    for first in rest:
        tag, value = _varint(first, rest), _varint(next(rest), rest)
        if tag & 7 == 2:
            found[tag >> 3].append(bytes(islice(rest, value)))
    return found


def _varint(first: int, rest: Iterator[int]) -> int:
    return first if first < 128 else first & 127 | _varint(next(rest), rest) << 7


def render(wanted: list[Counter], gpus: int, owners: Mapping[str, Mapping[str, str]], node: str) -> str:
    """As NVIDIA's template for GPUs does."""
    lines = []
    constant = {each.field: "580.178.04" for each in wanted if each.kind == "label"}
    for each in (each for each in wanted if each.kind != "label"):
        lines += [f"# HELP {each.field} {each.help}", f"# TYPE {each.field} {each.kind}"]
        for gpu in range(gpus):
            uuid = f"GPU-{gpu:08d}-0000-4000-8000-000000000000"
            labels = {"gpu": gpu, "UUID": uuid, "pci_bus_id": f"00000000:{gpu:02X}:00.0", "device": f"nvidia{gpu}"}
            labels |= {"modelName": "NVIDIA H200", "Hostname": node, **constant, **owners.get(uuid, {})}
            told = ",".join(f'{key}="{value}"' for key, value in labels.items())
            lines.append(f"{each.field}{{{told}}} {gpu}")
    return "\n".join(lines) + "\n"


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))  # the first process of a container has no default for it
    environment = os.environ
    path = environment.get("DCGM_EXPORTER_COLLECTORS", "/etc/dcgm-exporter/default-counters.csv")
    resources = ("nvidia.com/gpu", *environment.get("NVIDIA_RESOURCE_NAMES", "").split(","))
    try:
        wanted = counters(Path(path).read_text())
        watch(wanted, Path("/proc/self/status").read_text())
    except (Refusal, OSError) as error:
        sys.exit(f'level=ERROR msg="{error}"')

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            owners = pods(KUBELET, resources) if environment.get("DCGM_EXPORTER_KUBERNETES") == "true" else {}
            node = environment.get("NODE_NAME", "")
            series = render(wanted, int(environment["STANDIN_GPUS"]), owners, node)
            body = {"/health": "OK", "/metrics": series}.get(self.path)
            self.send_response(404 if body is None else 200)
            self.end_headers()
            self.wfile.write((body or "404 page not found\n").encode())

        def log_message(self, format: str, *args: object) -> None:
            pass

    host, _, port = environment.get("DCGM_EXPORTER_LISTEN", ":9400").rpartition(":")
    with ThreadingHTTPServer((host, int(port)), Handler) as server:
        print("HTTP server started - ready to serve metrics", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
