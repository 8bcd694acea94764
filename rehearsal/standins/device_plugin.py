# SPDX-License-Identifier: GPL-3.0-or-later
"""A device plugin without GPUs: the kubelet's real API (v1beta1), the settings of NVIDIA's plugin, made-up devices.

It runs in the pod that the role's DaemonSet makes, so it takes what that gives it: CONFIG_FILE, DEVICE_LIST_STRATEGY,
DEVICE_ID_STRATEGY and the folders of the kubelet's sockets, of CDI and of the driver. STANDIN_GPUS is how many GPUs the
node has; a container that is given one by CDI knows it by STANDIN_GPU_number, and has its device if the node has one.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import yaml
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

SOCKETS = Path("/var/lib/kubelet/device-plugins")
SPECIFICATIONS, DRIVER = Path("/var/run/cdi"), Path("/driver-root")
_VENDOR = "k8s.device-plugin.nvidia.com"  # not nvidia.com, of which the container toolkit makes a specification
_PACKAGE = "v1beta1"
_ONE, _MANY, _MAP = "one", "many", "map"

# k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1/api.proto: the messages and fields that are used here.
# message -> field -> (number, type, how many)
_MESSAGES: dict[str, dict[str, tuple[int, str, str]]] = {
    "Empty": {},
    "DevicePluginOptions": {},
    "RegisterRequest": {
        "version": (1, "string", _ONE),
        "endpoint": (2, "string", _ONE),
        "resource_name": (3, "string", _ONE),
        "options": (4, "DevicePluginOptions", _ONE),
    },
    "Device": {"ID": (1, "string", _ONE), "health": (2, "string", _ONE)},
    "ListAndWatchResponse": {"devices": (1, "Device", _MANY)},
    "ContainerAllocateRequest": {"devices_ids": (1, "string", _MANY)},
    "AllocateRequest": {"container_requests": (1, "ContainerAllocateRequest", _MANY)},
    "CDIDevice": {"name": (1, "string", _ONE)},
    "ContainerAllocateResponse": {
        "envs": (1, "string", _MAP),
        "annotations": (4, "string", _MAP),
        "cdi_devices": (5, "CDIDevice", _MANY),
    },
    "AllocateResponse": {"container_responses": (1, "ContainerAllocateResponse", _MANY)},
}


def _classes() -> dict[str, Any]:
    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="api.proto", package=_PACKAGE, syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, (number, kind, many) in fields.items():
            entry = message.field.add(name=field, number=number, label=kinds.LABEL_OPTIONAL)
            if many == _MAP:  # a map is a list of messages with key and value
                inner = message.nested_type.add(name=f"{field.title().replace('_', '')}Entry")
                inner.options.map_entry = True
                for place, part in enumerate(("key", "value"), 1):
                    inner.field.add(name=part, number=place, type=kinds.TYPE_STRING, label=kinds.LABEL_OPTIONAL)
                kind = f"{name}.{inner.name}"
            if many != _ONE:
                entry.label = kinds.LABEL_REPEATED
            if kind == "string":
                entry.type = kinds.TYPE_STRING
            else:
                entry.type, entry.type_name = kinds.TYPE_MESSAGE, f".{_PACKAGE}.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}")) for name in _MESSAGES
    }


API = _classes()


class Plugin:
    """One resource. ``devices``: identifiers as the kubelet deals with them; replicas of a GPU are ``GPU::number``."""

    def __init__(self, resource: str, devices: list[str], strategies: list[str]) -> None:
        self.resource = resource
        self.devices = devices
        self.strategies = strategies
        self._gone = threading.Event()

    def serve(self, socket: Path) -> grpc.Server:
        """Listen on the socket as the kubelet expects it. The server runs until it is stopped."""
        socket.unlink(missing_ok=True)
        server = grpc.server(ThreadPoolExecutor(8))

        def method(run: Any, request: str, stream: bool = False) -> Any:
            make = grpc.unary_stream_rpc_method_handler if stream else grpc.unary_unary_rpc_method_handler
            return make(
                run,
                request_deserializer=API[request].FromString,
                response_serializer=lambda message: message.SerializeToString(),
            )

        methods = {
            "GetDevicePluginOptions": method(lambda *_: API["DevicePluginOptions"](), "Empty"),
            "ListAndWatch": method(self._list_and_watch, "Empty", stream=True),
            "Allocate": method(self._allocate, "AllocateRequest"),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(f"{_PACKAGE}.DevicePlugin", methods),))
        server.add_insecure_port(f"unix://{socket}")
        server.start()
        return server

    def register(self, sockets: Path, endpoint: str) -> None:
        """Tell the kubelet. Raises grpc.RpcError when it doesn't take the plugin."""
        with grpc.insecure_channel(f"unix://{sockets}/kubelet.sock") as channel:
            call = channel.unary_unary(
                f"/{_PACKAGE}.Registration/Register",
                request_serializer=lambda message: message.SerializeToString(),
                response_deserializer=API["Empty"].FromString,
            )
            call(
                API["RegisterRequest"](version=_PACKAGE, endpoint=endpoint, resource_name=self.resource),
                timeout=10,
                wait_for_ready=True,
            )

    def stop(self) -> None:
        self._gone.set()

    def _list_and_watch(self, _request: Any, context: Any) -> Iterator[Any]:
        context.add_callback(self._gone.set)
        yield API["ListAndWatchResponse"](
            devices=[API["Device"](ID=device, health="Healthy") for device in self.devices]
        )
        self._gone.wait()

    def _allocate(self, request: Any, _context: Any) -> Any:
        responses = []
        for each in request.container_requests:
            gpus = list(dict.fromkeys(device.partition("::")[0] for device in each.devices_ids))
            answer = API["ContainerAllocateResponse"]()
            if "envvar" in self.strategies:
                answer.envs["NVIDIA_VISIBLE_DEVICES"] = ",".join(gpus)
            if "cdi-annotations" in self.strategies:
                answer.annotations["cdi.k8s.io/nvidia-device-plugin"] = ",".join(f"{_VENDOR}/gpu={gpu}" for gpu in gpus)
            if "cdi-cri" in self.strategies:
                answer.cdi_devices.extend(API["CDIDevice"](name=f"{_VENDOR}/gpu={gpu}") for gpu in gpus)
            responses.append(answer)
        return API["AllocateResponse"](container_responses=responses)


def specify(devices: list[str], folder: Path = SPECIFICATIONS, driver: Path = DRIVER) -> None:
    """Write the CDI specification of the GPUs, as NVIDIA's plugin does at its start."""

    def nodes(*names: str) -> list[dict[str, str]]:
        return [{"path": f"/dev/{name}"} for name in names if (driver / "dev" / name).exists()]

    gpus = dict.fromkeys(device.partition("::")[0] for device in devices)
    specification = {
        "cdiVersion": "0.5.0",
        "kind": f"{_VENDOR}/gpu",
        "devices": [
            {
                "name": gpu,
                "containerEdits": {"env": [f"STANDIN_GPU_{number}={gpu}"], "deviceNodes": nodes(f"nvidia{number}")},
            }
            for number, gpu in enumerate(gpus)
        ],
        # void: NVIDIA's runtime is not to add what is there already
        "containerEdits": {"env": ["NVIDIA_VISIBLE_DEVICES=void"], "deviceNodes": nodes("nvidiactl")},
    }
    new = folder / "new"
    new.write_text(json.dumps(specification))
    new.rename(folder / f"{_VENDOR}-gpu.json")


def plugin_of(config: dict[str, Any], gpus: int, environment: dict[str, str]) -> Plugin:
    """What NVIDIA's plugin makes of its config file, as far as it is about full GPUs and time-slicing."""
    name, devices = "nvidia.com/gpu", [f"GPU-{number:08d}-0000-4000-8000-000000000000" for number in range(gpus)]
    slicing = (config.get("sharing") or {}).get("timeSlicing") or {}
    for shared in slicing.get("resources") or ():
        if shared["name"] == name:
            devices = [f"{device}::{number}" for device in devices for number in range(shared["replicas"])]
            name += ".shared" if slicing.get("renameByDefault") else ""
    flags = ((config.get("flags") or {}).get("plugin") or {}).get("deviceListStrategy") or "envvar"
    chosen = environment.get("DEVICE_LIST_STRATEGY") or (flags if isinstance(flags, str) else ",".join(flags))
    return Plugin(name, devices, chosen.split(","))


def main() -> None:
    """Serve and register, and again whenever the kubelet has started anew."""
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))  # the first process of a container has no default for it
    path = os.environ.get("CONFIG_FILE")
    config = (yaml.safe_load(Path(path).read_text()) if path else None) or {}
    gpus = int(os.environ["STANDIN_GPUS"])
    if not gpus:
        print("No devices found. Waiting indefinitely.", flush=True)
        threading.Event().wait()
    kubelet = SOCKETS / "kubelet.sock"
    while True:
        plugin = plugin_of(config, gpus, dict(os.environ))
        if "volume-mounts" in plugin.strategies:
            sys.exit("The stand-in does not know volume-mounts.")
        endpoint = f"nvidia-{plugin.resource.rpartition('/')[2]}.sock"
        if any(strategy.startswith("cdi-") for strategy in plugin.strategies):
            specify(plugin.devices)
        born = kubelet.stat().st_ino if kubelet.exists() else 0
        server = plugin.serve(SOCKETS / endpoint)
        try:
            plugin.register(SOCKETS, endpoint)
            print(f"Registered {plugin.resource} with {len(plugin.devices)} devices", flush=True)
        except grpc.RpcError as error:
            sys.exit(f"The kubelet does not take {plugin.resource}: {error}")
        while kubelet.exists() and kubelet.stat().st_ino == born and (SOCKETS / endpoint).exists():
            threading.Event().wait(1)
        plugin.stop()
        server.stop(None)


if __name__ == "__main__":
    main()
