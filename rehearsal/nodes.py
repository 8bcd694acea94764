# SPDX-License-Identifier: GPL-3.0-or-later
"""A host as a node of a bare cluster: containerd and kubelet as systemd units, as on any machine that joins one.

It shares the network of the cluster's own node, so it has a bridge, an address and pods of its own. The own node takes
no pods any more as long as there is another.
"""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

from rehearsal import cluster, hosts, images, pki, system, templates, toolchain
from rehearsal.command import run
from rehearsal.errors import RehearsalError
from rehearsal.layout import NODE, Layout
from rehearsal.progress import Progress
from rehearsal.supervision import Supervision
from rehearsal.toolchain import Toolchain

_CONFIG = Path("/etc/rehearsal")
_SOCKET = Path("/run/containerd/containerd.sock")
_PROGRAMS = {"containerd": ("containerd", "containerd-shim-runc-v2", "ctr"), "kubernetes": ("kubelet",)}
_PLUGINS = ("bridge", "host-local", "loopback")  # of CNI
_SETTLED = "etc/systemd/system/multi-user.target.wants/kubelet.service"  # the last thing that setting up makes
# nspawn shows the hierarchies of version 1 read-only, each as far as it is this host's own
_PREPARE = """#!/bin/sh
set -e
ip link add {bridge} type bridge || true
ip address replace {address}/24 dev {bridge}
ip link set {bridge} up
for hierarchy in /sys/fs/cgroup/*/; do
    [ -e /sys/fs/cgroup/cgroup.controllers ] || mount -o remount,bind,rw "$hierarchy"
done
"""
_UNITS = {
    "rehearsal-node": """[Unit]
Description=What a node of the rehearsal has and a host has not
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/local/sbin/rehearsal-node
""",
    "containerd": """[Unit]
Requires=rehearsal-node.service
After=rehearsal-node.service
[Service]
ExecStart=/usr/local/bin/containerd --log-level=warn
Type=notify
Delegate=yes
KillMode=process
Restart=always
[Install]
WantedBy=multi-user.target
""",
    "kubelet": """[Unit]
Wants=containerd.service
After=containerd.service
[Service]
ExecStart=/usr/local/bin/kubelet --config={config}/kubelet.yaml --kubeconfig={config}/kubelet.kubeconfig \\
  --hostname-override={name} --node-ip={address}
Restart=always
RestartSec=1
[Install]
WantedBy=multi-user.target
""",
}


def up(layout: Layout, progress: Progress, name: str, release: str) -> None:
    """Have the host running, and joined to the cluster. Raises RehearsalError."""
    tools = toolchain.ready(layout)
    if not tools or not layout.bare.exists() or not Supervision(layout).running():
        raise RehearsalError("a host joins a bare cluster that is up: python -m rehearsal up --bare")
    if name == NODE:
        raise RehearsalError(f"{NODE} is the cluster's own node")
    hosts.up(layout, progress, name, release, shared=(layout.volumes,))
    system.forward()
    with progress.step(f"joining {name} to the cluster"):
        if not (hosts.root(layout, name) / _SETTLED).is_symlink():
            _settle(layout, tools, name)
        cluster.kubectl(layout, tools, "wait", "--for=create", f"node/{name}", "--timeout=60s")
        cluster.kubectl(layout, tools, "wait", "--for=condition=Ready", f"node/{name}", "--timeout=60s")
        cluster.kubectl(layout, tools, "cordon", NODE)


def leave(layout: Layout, name: str) -> None:
    """Have the cluster forget the node, if it is one and the cluster is there."""
    tools = toolchain.ready(layout)
    if tools and name in hosts.names(layout) and layout.bare.exists() and Supervision(layout).running():
        with contextlib.suppress(RehearsalError):  # frozen or broken: its own affair
            cluster.kubectl(layout, tools, "delete", f"node/{name}", "--ignore-not-found")
            cluster.kubectl(layout, tools, "uncordon", NODE)


def _settle(layout: Layout, tools: Toolchain, name: str) -> None:
    root, number = hosts.root(layout, name), hosts.number(layout, name)
    bridge, address = hosts.bridge(number), f"10.213.{number}.1"
    values = {
        "bridge": bridge,
        "bridge_address": address,
        "pod_network": f"10.213.{number}.0/24",
        "kubelet_health": address,
        "config": _CONFIG,
        "pki": _CONFIG,
        "ca": _CONFIG / "ca.crt",
        "cgroup": "",
        # systemd's, as on other machines; of version 1 the host has but a view
        "cgroup_driver": "systemd" if system.cgroup_version() == 2 else "cgroupfs",
        "kubelet": "/var/lib/kubelet",
        "containerd": "/var/lib/containerd",
        "containerd_run": "/run/containerd",
        "containerd_socket": _SOCKET,
        "nvidia_handler": False,
        "snapshotter": "overlayfs" if system.overlay_works_on(root) else "native",
    }
    targets = {
        "kubelet.yaml": _CONFIG / "kubelet.yaml",
        "resolv.conf": _CONFIG / "resolv.conf",
        "10-rehearsal.conflist": _CONFIG / "cni/10-rehearsal.conflist",
        "hosts.toml": _CONFIG / "registries/nvcr.io/hosts.toml",
        "containerd.toml": Path("/etc/containerd/config.toml"),
    }
    files = {target: templates.render(template, values).encode() for template, target in targets.items()}
    files |= {_CONFIG / file: content for file, content in pki.node(layout, name, address).items()}
    texts = {Path(f"/etc/systemd/system/{unit}.service"): text for unit, text in _UNITS.items()}
    texts[Path("/usr/local/sbin/rehearsal-node")] = _PREPARE
    given = {"bridge": bridge, "address": address, "name": name, "config": _CONFIG}
    files |= {path: text.format(**given).encode() for path, text in texts.items()}
    for path, content in files.items():
        target = root / path.relative_to("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        target.chmod(0o755 if content.startswith(b"#!") else 0o600 if path.parent == _CONFIG else 0o644)
    (root / system.CNI_PLUGINS.relative_to("/")).mkdir(parents=True, exist_ok=True)
    for plugin in _PLUGINS:
        _copy(system.CNI_PLUGINS / plugin, root / system.CNI_PLUGINS.relative_to("/"))
    _copy(shutil.which("runc") or "/usr/sbin/runc", root / "usr/sbin")
    shutil.copy2(images.pause(layout, tools), root / "root/pause.tar")
    ssh = hosts.ssh_command(layout, name)
    for part, programs in _PROGRAMS.items():
        for program in programs:
            _copy(tools.program(part, program), root / "usr/local/bin")
    run([*ssh, "systemctl daemon-reload && systemctl enable --quiet --now containerd"])
    run([*ssh, f"ctr --address={_SOCKET} --namespace=k8s.io images import /root/pause.tar && rm /root/pause.tar"])
    run([*ssh, "systemctl enable --quiet --now kubelet"])


def _copy(program: str | Path, folder: Path) -> None:
    target = folder / Path(program).name
    target.unlink(missing_ok=True)  # a try before this one may have started it: it can't be written to then
    shutil.copy2(program, target)
