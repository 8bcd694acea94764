# SPDX-License-Identifier: GPL-3.0-or-later
"""The device plugin stand-in, talked to as the kubelet does, over the sockets that it does."""

from __future__ import annotations

import json
import queue
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from rehearsal.standins.device_plugin import API, Plugin, plugin_of, specify


def to_bytes(message: Any) -> bytes:
    return message.SerializeToString()


@pytest.fixture
def kubelet(tmp_path: Path) -> Iterator[queue.Queue]:
    """What was registered with it."""
    registered: queue.Queue = queue.Queue()

    def register(request: Any, _context: Any) -> Any:
        registered.put(request)
        return API["Empty"]()

    handler = grpc.unary_unary_rpc_method_handler(
        register, request_deserializer=API["RegisterRequest"].FromString, response_serializer=to_bytes
    )
    server = grpc.server(ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("v1beta1.Registration", {"Register": handler}),)
    )
    server.add_insecure_port(f"unix://{tmp_path}/kubelet.sock")
    server.start()
    yield registered
    server.stop(None)


def allocate(channel: grpc.Channel, *ids: str) -> Any:
    call = channel.unary_unary("/v1beta1.DevicePlugin/Allocate", to_bytes, API["AllocateResponse"].FromString)
    asked = API["AllocateRequest"](container_requests=[API["ContainerAllocateRequest"](devices_ids=ids)])
    (answer,) = call(asked, timeout=30).container_responses
    return answer


def test_it_registers_lists_and_allocates(kubelet: queue.Queue, tmp_path: Path) -> None:
    plugin = Plugin("nvidia.com/gpu", ["GPU-a", "GPU-b"], ["envvar", "cdi-cri", "cdi-annotations"])
    server = plugin.serve(tmp_path / "plugin.sock")
    plugin.register(tmp_path, "plugin.sock")
    told = kubelet.get(timeout=30)
    assert (told.version, told.endpoint, told.resource_name) == ("v1beta1", "plugin.sock", "nvidia.com/gpu")
    with grpc.insecure_channel(f"unix://{tmp_path}/plugin.sock") as channel:
        watch = channel.unary_stream(
            "/v1beta1.DevicePlugin/ListAndWatch", to_bytes, API["ListAndWatchResponse"].FromString
        )(API["Empty"](), timeout=10)
        listed = next(watch)
        assert [(device.ID, device.health) for device in listed.devices] == [
            ("GPU-a", "Healthy"),
            ("GPU-b", "Healthy"),
        ]
        answer = allocate(channel, "GPU-b", "GPU-a")
        assert dict(answer.envs) == {"NVIDIA_VISIBLE_DEVICES": "GPU-b,GPU-a"}
        names = [f"k8s.device-plugin.nvidia.com/gpu={gpu}" for gpu in ("GPU-b", "GPU-a")]
        assert [device.name for device in answer.cdi_devices] == names
        assert list(answer.annotations.values()) == [",".join(names)]
        watch.cancel()
    server.stop(None)


def test_what_it_names_is_in_a_specification(tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    for name in ("nvidia1", "nvidiactl"):
        (tmp_path / "dev" / name).touch()
    specify(["GPU-a::0", "GPU-a::1", "GPU-b::0"], tmp_path, tmp_path)
    (file,) = tmp_path.glob("*.json")
    assert file.name == "k8s.device-plugin.nvidia.com-gpu.json"
    told = json.loads(file.read_text())
    assert told["kind"] == "k8s.device-plugin.nvidia.com/gpu"
    assert told["containerEdits"]["deviceNodes"] == [{"path": "/dev/nvidiactl"}]
    assert told["devices"] == [
        {"name": "GPU-a", "containerEdits": {"env": ["STANDIN_GPU_0=GPU-a"], "deviceNodes": []}},
        {
            "name": "GPU-b",
            "containerEdits": {"env": ["STANDIN_GPU_1=GPU-b"], "deviceNodes": [{"path": "/dev/nvidia1"}]},
        },
    ]


def test_the_kubelets_own_bytes_are_read_and_ours_are_its() -> None:
    """The wire format of api.proto, written by hand: field numbers can't be tested against our own table."""
    request = API["RegisterRequest"](version="v1beta1", endpoint="e", resource_name="r")
    assert to_bytes(request) == b"\n\x07v1beta1\x12\x01e\x1a\x01r"
    answer = API["ContainerAllocateResponse"](cdi_devices=[API["CDIDevice"](name="n")])
    answer.envs["k"] = "v"
    assert to_bytes(answer) == b"\n\x06\n\x01k\x12\x01v" + b"\x2a\x03\n\x01n"
    asked = API["AllocateRequest"].FromString(b"\n\x06\n\x01a\n\x01b")
    assert list(asked.container_requests[0].devices_ids) == ["a", "b"]


@pytest.mark.parametrize(
    ("config", "environment", "resource", "devices", "strategies"),
    [
        ({}, {}, "nvidia.com/gpu", 2, ["envvar"]),
        ({"flags": {"plugin": {"deviceListStrategy": ["cdi-cri"]}}}, {}, "nvidia.com/gpu", 2, ["cdi-cri"]),
        ({}, {"DEVICE_LIST_STRATEGY": "envvar,cdi-cri"}, "nvidia.com/gpu", 2, ["envvar", "cdi-cri"]),
        (
            {"sharing": {"timeSlicing": {"resources": [{"name": "nvidia.com/gpu", "replicas": 3}]}}},
            {},
            "nvidia.com/gpu",
            6,
            ["envvar"],
        ),
        (
            {
                "sharing": {
                    "timeSlicing": {
                        "renameByDefault": True,
                        "resources": [{"name": "nvidia.com/gpu", "replicas": 2}],
                    }
                }
            },
            {},
            "nvidia.com/gpu.shared",
            4,
            ["envvar"],
        ),
    ],
)
def test_it_takes_the_settings_of_nvidias_plugin(
    config: dict, environment: dict, resource: str, devices: int, strategies: list[str]
) -> None:
    plugin = plugin_of(config, 2, environment)
    assert (plugin.resource, len(set(plugin.devices)), plugin.strategies) == (resource, devices, strategies)


def test_shares_of_one_gpu_are_one_gpu(kubelet: queue.Queue, tmp_path: Path) -> None:
    plugin = Plugin("nvidia.com/gpu", ["GPU-a::0", "GPU-a::1"], ["envvar"])
    server = plugin.serve(tmp_path / "plugin.sock")
    with grpc.insecure_channel(f"unix://{tmp_path}/plugin.sock") as channel:
        assert dict(allocate(channel, "GPU-a::1", "GPU-a::0").envs) == {"NVIDIA_VISIBLE_DEVICES": "GPU-a"}
    server.stop(None)
