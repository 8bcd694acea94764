# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""Private. containerd, on its own or as k3s, RKE2, MicroK8s or Kubespray bring it."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Optional

from ansible_collections.gpuops.nim.plugins.module_utils._host import release, toml
from ansible_collections.gpuops.nim.plugins.module_utils._host.host import Host
from ansible_collections.gpuops.nim.plugins.module_utils._host.runtime import Runtime

# the CRI plugin's table in files of version 1, 2 and 3 (there, images have another one)
CRI_TABLES = ("cri", "io.containerd.grpc.v1.cri", "io.containerd.cri.v1.runtime")
CRI_PLUGINS = {*CRI_TABLES, "io.containerd.cri.v1.images"}
# where nvidia-ctk puts its file; the first one only in 1.18.0
DROP_INS = ("/etc/containerd/config.d/99-nvidia.toml", "/etc/containerd/conf.d/99-nvidia.toml")
NVIDIA_RUNTIMES = ("/usr/bin/nvidia-container-runtime", "/usr/local/nvidia/toolkit/nvidia-container-runtime")


@dataclass(frozen=True)
class Flavour:
    name: str
    config: str
    programs: tuple[str, ...]  # containerd itself
    signs: tuple[str, ...]  # one of them shows that it is installed
    packages: tuple[str, ...] = ()


FLAVOURS = (
    Flavour(
        "plain",
        "/etc/containerd/config.toml",
        ("/usr/local/bin/containerd", "/usr/bin/containerd"),
        ("/usr/local/bin/containerd", "/usr/bin/containerd", "/etc/containerd/config.toml"),
        ("containerd", "containerd.io", "moby-containerd"),
    ),
    Flavour(
        "k3s",
        "/var/lib/rancher/k3s/agent/etc/containerd/config.toml",
        ("/var/lib/rancher/k3s/data/current/bin/containerd",),
        ("/var/lib/rancher/k3s/agent", "/usr/local/bin/k3s"),
    ),
    Flavour(
        "rke2",
        "/var/lib/rancher/rke2/agent/etc/containerd/config.toml",
        ("/var/lib/rancher/rke2/bin/containerd",),
        ("/var/lib/rancher/rke2/agent", "/usr/local/bin/rke2", "/usr/bin/rke2"),
    ),
    Flavour(
        "microk8s",
        "/var/snap/microk8s/current/args/containerd.toml",
        ("/snap/microk8s/current/bin/containerd",),
        ("/var/snap/microk8s/current",),
    ),
)
# Kubespray's is where a plain one is. Its unit has this comment, which others have copied, so the host must also have
# the file with its name, which is on all its nodes until it is reset.
KUBESPRAY = "/etc/modules-load.d/kubespray-br_netfilter.conf"
KUBESPRAY_UNIT = "/etc/systemd/system/containerd.service"
KUBESPRAY_COMMENT = "# Set the cgroup slice of the service so that kube reserved takes effect"


class Unreadable(Exception):
    """The configuration can't be told."""


def find(host: Host) -> list[Runtime]:
    return [_describe(host, flavour) for flavour in FLAVOURS if host.first(*flavour.signs)]


def _describe(host: Host, flavour: Flavour) -> Runtime:
    program = host.first(*flavour.programs)
    version = release.find(host, program, flavour.packages)
    found = Runtime("containerd", _brought_by(host, flavour), version, host.first(flavour.config))
    try:
        config = _Config(host, flavour.config, version, program, found.problems) if found.config else None
    except Unreadable as error:
        found.problems.append(str(error))
        return found
    cri = config.cri if config else {}
    table = _table(cri, "containerd")
    handlers = _table(table, "runtimes")
    default = table.get("default_runtime_name") or "runc"
    found.default_runtime = default
    found.nvidia_handler = "nvidia" in handlers
    found.cdi = _cdi(version, config)
    found.systemd_cgroup = _systemd_cgroup(handlers, default)
    if config:
        found.config_version, found.imports = config.version, config.imports
        found.problems.extend(_problems(host, flavour, version, config, default))
    elif flavour.name == "plain":
        dropped = [path for path in DROP_INS if host.exists(path)]
        found.problems.extend(f"{path} is not read: no {flavour.config} imports it." for path in dropped)
    return found


def _brought_by(host: Host, flavour: Flavour) -> str:
    kubespray = (
        flavour.name == "plain" and host.exists(KUBESPRAY) and KUBESPRAY_COMMENT in (host.read(KUBESPRAY_UNIT) or "")
    )
    return "kubespray" if kubespray else flavour.name


class _Config:
    """A configuration with all that it imports."""

    def __init__(
        self, host: Host, path: str, release_: Optional[str], program: Optional[str], problems: list[str]
    ) -> None:
        self.host = host
        self.path = path
        self.problems = problems
        try:
            root = _load(host, path)
        except toml.TomlError as error:
            root = self._dump(program, error)
        version = root.get("version")
        self.version: Optional[int] = version if isinstance(version, int) else None
        self.imports = [str(entry) for entry in root.get("imports") or []]
        self.disabled = {str(name) for name in root.get("disabled_plugins") or []}
        self.files = [path]
        # before 2.0 a file replaces the whole table of a plugin, since then tables are merged
        self.merged = release.at_least(release_, 2) if release_ else (self.version or 0) >= 3
        self.cri = _cri(root)
        self.versions = {version} - {None}
        self._read_imports(root)

    def _dump(self, program: Optional[str], error: toml.TomlError) -> dict[str, Any]:
        """What containerd itself makes of it, in the plain form that it prints."""
        text = self.host.output(program, "--config", self.path, "config", "dump") if program else None
        if text is None:
            raise Unreadable(f"{self.path} can't be read: {error}.") from error
        try:
            return {**toml.loads(text), "imports": []}  # they are merged already
        except toml.TomlError as again:
            raise Unreadable(f"What containerd makes of {self.path} can't be read: {again}.") from again

    def _read_imports(self, root: Mapping[str, Any]) -> None:
        pending = _imported(self.host, self.path, root)
        while pending:
            path = pending.pop(0)
            if path in self.files:
                continue
            if not self.host.exists(path):
                self.problems.append(f"{path} is imported and does not exist: containerd does not start.")
                continue
            self.files.append(path)
            try:
                more = _load(self.host, path)
            except (toml.TomlError, Unreadable) as error:
                self.problems.append(f"{path} can't be read: {error}.")
                continue
            self.versions |= {more.get("version")} - {None}
            self.disabled |= {str(name) for name in more.get("disabled_plugins") or []}
            table = _cri(more)
            self.cri = _merge(self.cri, table) if self.merged else table or self.cri
            pending.extend(_imported(self.host, path, more))


def _cri(config: Mapping[str, Any]) -> dict[str, Any]:
    """The CRI plugin's table of one file, whatever the file's version calls it."""
    plugins = _table(config, "plugins")
    found: dict[str, Any] = {}
    for name in CRI_TABLES:
        found = _merge(found, _table(plugins, name))
    return found


def _load(host: Host, path: str) -> dict[str, Any]:
    text = host.read(path)
    if text is None:
        raise Unreadable(f"{path} can't be read.")
    return toml.loads(text)


def _imported(host: Host, path: str, config: Mapping[str, Any]) -> list[str]:
    found: list[str] = []
    for entry in config.get("imports") or []:
        pattern = os.path.normpath(os.path.join(os.path.dirname(path), str(entry)))
        folder, name = os.path.split(pattern)
        if "*" in name:
            found.extend(f"{folder}/{match}" for match in fnmatch.filter(host.names(folder), name))
        else:
            found.append(pattern)
    return found


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _table(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = config.get(name)
    return found if isinstance(found, dict) else {}


def _cdi(version: Optional[str], config: Optional[_Config]) -> bool:
    """Since 1.7 an option, since 2.0 on by default, since 2.4 always on."""
    told = config.cri.get("enable_cdi") if config else None
    if version is None:
        return bool(told) if told is not None else bool(config and (config.version or 0) >= 3)
    if release.at_least(version, 2, 4) or not release.at_least(version, 1, 7):
        return release.at_least(version, 2, 4)
    return bool(told) if told is not None else release.at_least(version, 2)


def _highest(version: str) -> int:
    """The newest version of files that a release can read."""
    if release.at_least(version, 2, 3):
        return 4
    return 3 if release.at_least(version, 2) else 2


def _systemd_cgroup(handlers: Mapping[str, Any], name: str) -> bool:
    """Whatever the case: Kubespray before 2.28 writes systemdCgroup, which containerd 1 takes for the same."""
    options = _table(_table(handlers, name), "options")
    return any(bool(value) for key, value in options.items() if key.lower() == "systemdcgroup")


def _problems(host: Host, flavour: Flavour, version: Optional[str], config: _Config, default: str) -> list[str]:
    found = []
    handlers = _table(_table(config.cri, "containerd"), "runtimes")
    if config.version is None:
        found.append(
            f"{config.path} has no version: nvidia-ctk takes it for version 1, and what it then writes has no effect."
        )
    newest = max((number for number in config.versions if isinstance(number, int)), default=0)
    if version and newest > _highest(version):
        found.append(f"containerd {version} can't read files of version {newest}: it does not start.")
    elif len(config.versions) > 1 and not release.at_least(version, 2, 3):
        found.append(
            f"{config.path} and its imports are of different versions: before 2.3 containerd takes them for one."
        )
    if config.disabled & CRI_PLUGINS:
        found.append("The CRI plugin is disabled: the kubelet can't use this containerd.")
    if flavour.name == "plain":
        found.extend(
            f"{path} is not read: no file imports it."
            for path in DROP_INS
            if host.exists(path) and path not in config.files
        )
    if "nvidia" in handlers:
        found.extend(_handler_problems(host, handlers, default))
    elif flavour.name in ("k3s", "rke2") and host.first(*NVIDIA_RUNTIMES):
        found.append(f"{flavour.name} looks for nvidia-container-runtime when it starts, and has not started since.")
    if default != "runc" and default not in handlers:
        found.append(f"The default runtime {default} is not configured.")
    return found


def _handler_problems(host: Host, handlers: Mapping[str, Any], default: str) -> list[str]:
    found = []
    nvidia = _table(handlers, "nvidia")
    if not nvidia.get("runtime_type"):
        found.append("The handler nvidia has no runtime_type: its pods can't start.")
    program = _table(nvidia, "options").get("BinaryName")
    if program and os.path.isabs(str(program)) and not host.exists(str(program)):
        found.append(f"The handler nvidia starts {program}, which does not exist.")
    plain = default if default != "nvidia" else "runc"
    if plain in handlers and _systemd_cgroup(handlers, plain) != _systemd_cgroup(handlers, "nvidia"):
        found.append(f"SystemdCgroup of the handler nvidia is not that of {plain}.")
    return found
