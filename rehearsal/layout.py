# SPDX-License-Identifier: GPL-3.0-or-later
"""Where everything is: folders, addresses and names. One place, no other file invents a path or a port."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).resolve().parent
LOOPBACK = "127.0.0.1"
NODE = "rehearsal"
BRIDGE = "gpuops0"
BRIDGE_ADDRESS = "10.213.0.1"
POD_NETWORK = "10.213.0.0/24"
SERVICE_NETWORK = "10.214.0.0/24"
API_SERVICE = "10.214.0.1"  # the first of them is that of the API server
NAMESPACE_KSERVE = "kserve"
NAMESPACE_CONTOUR = "projectcontour"
STORAGE_PROVISIONER = "rehearsal.gpuops.nim/local"
PAUSE_IMAGE = "gpuops.nim/pause:1"
SMALL_REQUESTS = ("gpuops.nim/rehearsal", "small-requests")  # label of namespaces where pods of any size fit
GPUS = 4

# Every port is on the loopback interface, except the kubelet's, which is on the bridge, and ngc's, which is on both.
PORTS = {
    "etcd": 26379,
    "etcd-peer": 26380,
    "apiserver": 26443,
    "controller-manager": 26257,
    "scheduler": 26259,
    "kubelet": 26250,
    "kubelet-health": 26248,
    "kserve-webhook": 26944,
    "kserve-metrics": 26980,
    "kserve-health": 26981,
    "contour-xds": 26801,
    "contour-health": 26800,
    "contour-debug": 26806,
    "envoy-stats": 26802,
    "ingress": 18080,
    "ingress-tls": 18443,
    "ngc": 25443,
    "registry": 25445,
    "packages": 25446,
}
HOST_PORTS = range(27201, 27299)  # of the hosts' sshd; one that is a node has a bridge and pods of its own, too

# Folders that programs have compiled in. Inside the rehearsal's own mount namespace each one is a folder of the state.
COMPILED_IN = ("/run/containerd", "/var/lib/cni", "/var/log/containers", "/var/lib/kubelet", "/var/run/cdi")


def url(part: str, scheme: str = "http", host: str = LOOPBACK) -> str:
    """Address of a part, such as ``https://127.0.0.1:26443``."""
    return f"{scheme}://{host}:{PORTS[part]}"


def _folder(variable: str, xdg: str, fallback: str, name: str) -> Path:
    if variable in os.environ:
        return Path(os.environ[variable]).expanduser().resolve()
    return Path(os.environ.get(xdg) or Path.home() / fallback).resolve() / name


@dataclass(frozen=True)
class Layout:
    """The two folders that the rehearsal writes to.

    cache: what is worth keeping (binaries, images, the CA); ``GPUOPS_NIM_CACHE``, else ``~/.cache/gpuops-nim``.
    state: the cluster of today; ``GPUOPS_NIM_STATE``, else ``~/.local/state/gpuops-nim/rehearsal``.
    """

    cache: Path
    state: Path

    @classmethod
    def from_environment(cls) -> Layout:
        return cls(
            cache=_folder("GPUOPS_NIM_CACHE", "XDG_CACHE_HOME", ".cache", "gpuops-nim"),
            state=_folder("GPUOPS_NIM_STATE", "XDG_STATE_HOME", ".local/state", "gpuops-nim/rehearsal"),
        )

    @property
    def pki(self) -> Path:
        return self.cache / "pki"

    @property
    def ca(self) -> Path:
        return self.pki / "ca.crt"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's."""
        return self.state / "kubeconfig"

    @property
    def config(self) -> Path:
        return self.state / "config"

    @property
    def logs(self) -> Path:
        return self.state / "logs"

    @property
    def audit_log(self) -> Path:
        return self.logs / "audit.log"

    @property
    def cgroup(self) -> str:
        """Parent of all pods' cgroups. Two clusters (in two network namespaces) must not clean up each other's."""
        return f"gpuops-rehearsal-{hashlib.sha256(str(self.state).encode()).hexdigest()[:8]}"

    @property
    def bare(self) -> Path:
        """Is there in a cluster that has neither KServe nor GPUs."""
        return self.state / "bare"

    @property
    def kserve_release(self) -> Path:
        """Names the release of KServe that runs."""
        return self.state / "kserve-release"

    @property
    def control_socket(self) -> Path:
        return self.state / "supervisor.sock"

    @property
    def containerd_socket(self) -> Path:
        return self.state / "containerd" / "containerd.sock"

    @property
    def registry_storage(self) -> Path:
        return self.cache / "registry"

    @property
    def ngc_state(self) -> Path:
        """Faults and keys of the ngc stand-in, read anew at each request."""
        return self.state / "ngc.json"

    @property
    def hosts(self) -> Path:
        """A folder for each host, and the ssh_config that knows them all."""
        return self.state / "hosts"

    @property
    def packages(self) -> Path:
        """The signed repository of the container toolkit, as it is served."""
        return self.cache / "packages"

    @property
    def volumes(self) -> Path:
        return self.state / "volumes"
