# SPDX-License-Identifier: GPL-3.0-or-later
"""The exporter stand-in: what it asks the kubelet, what it reads and refuses, and the text that it answers with."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from rehearsal.standins.dcgm_exporter import Refusal, counters, pods, render, watch

FILE = """# a comment

DCGM_FI_DEV_GPU_UTIL,      gauge, GPU utilization (in %).
DCGM_FI_DEV_XID_ERRORS,gauge,"The last, or 0"
DCGM_FI_DRIVER_VERSION,label,
"""


def part(number: int, value: bytes) -> bytes:
    """A field of a protobuf message, by hand."""
    length = bytes([len(value)]) if len(value) < 128 else bytes([len(value) & 127 | 128, len(value) >> 7])
    return bytes([number << 3 | 2]) + length + value


def test_it_asks_the_kubelet_whose_a_gpu_is(tmp_path: Path) -> None:
    def device(resource: bytes, *ids: bytes) -> bytes:
        return part(2, part(1, resource) + b"".join(part(2, each) for each in ids))

    devices = device(b"nvidia.com/gpu", b"GPU-a", b"GPU-b") + device(b"example.com/nic", b"GPU-c")
    devices += device(b"nvidia.com/gpu.shared", b"GPU-d::3") + b"\x18\x96\x01"
    pod = part(1, b"chat-0") + part(2, b"models") + part(3, part(1, b"main") + devices)
    other = part(1, b"cpu-0") + part(2, b"models") + part(3, part(1, b"main"))
    handler = grpc.unary_unary_rpc_method_handler(lambda request, context: part(1, pod) + part(1, other))
    server = grpc.server(ThreadPoolExecutor(1))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("v1.PodResourcesLister", {"List": handler}),))
    server.add_insecure_port(f"unix://{tmp_path}/kubelet.sock")
    server.start()
    found = pods(f"{tmp_path}/kubelet.sock", ("nvidia.com/gpu", "nvidia.com/gpu.shared"))
    server.stop(None)
    labels = {"container": "main", "namespace": "models", "pod": "chat-0"}
    assert found == {"GPU-a": labels, "GPU-b": labels, "GPU-d": labels}
    assert pods(f"{tmp_path}/none.sock", ("nvidia.com/gpu",)) == {}


def test_its_text_is_that_of_nvidias_template() -> None:
    uuid = "GPU-00000001-0000-4000-8000-000000000000"
    text = render(counters(FILE), 2, {uuid: {"container": "main", "namespace": "models", "pod": "chat-0"}}, "gpu-1")
    lines = text.splitlines()
    assert lines[:2] == ["# HELP DCGM_FI_DEV_GPU_UTIL GPU utilization (in %).", "# TYPE DCGM_FI_DEV_GPU_UTIL gauge"]
    assert lines[3] == (
        f'DCGM_FI_DEV_GPU_UTIL{{gpu="1",UUID="{uuid}",pci_bus_id="00000000:01:00.0",device="nvidia1",'
        'modelName="NVIDIA H200",Hostname="gpu-1",DCGM_FI_DRIVER_VERSION="580.178.04",container="main",'
        'namespace="models",pod="chat-0"} 1'
    )
    assert "pod=" not in lines[2]
    assert lines[4] == "# HELP DCGM_FI_DEV_XID_ERRORS The last, or 0"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("DCGM_FI_DEV_GPU_UTIL, gauge", "expected 3 fields"),
        ("DCGM_NO_SUCH, gauge, what", "could not find DCGM field"),
        ("DCGM_FI_DEV_GPU_UTIL, number, what", "could not find Prometheus metric type 'number'"),
        ('DCGM_FI_DEV_GPU_UTIL, gauge, "what"', 'bare "'),
    ],
)
def test_it_refuses_what_nvidias_does(line: str, words: str) -> None:
    with pytest.raises(Refusal, match=words):
        counters(line)


def test_profiling_needs_a_capability() -> None:
    profiling = counters("DCGM_FI_PROF_DRAM_ACTIVE, gauge, what")
    watch(profiling, "Name:\tx\nCapEff:\t0000000000200000\n")
    watch(counters(FILE), "CapEff:\t0000000000000000\n")
    with pytest.raises(Refusal, match="Host engine is running as non-root"):
        watch(profiling, "CapEff:\t00000000a80425fb\n")
