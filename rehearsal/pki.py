# SPDX-License-Identifier: GPL-3.0-or-later
"""One CA, kept in the cache because the NIM images trust it, and the certificates and kubeconfigs of a state."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import Any

import trustme
import yaml

from rehearsal.layout import BRIDGE_ADDRESS, LOOPBACK, NODE, Layout, url

# part -> (user, group): the names (CN, O) that Kubernetes reads from a client certificate
_USERS = {
    "controller-manager": ("system:kube-controller-manager", None),
    "scheduler": ("system:kube-scheduler", None),
    "kubelet": (f"system:node:{NODE}", "system:nodes"),
    "kubelet-client": ("rehearsal-apiserver", "system:masters"),
    "kserve": ("system:serviceaccount:kserve:kserve-controller-manager", None),
    "contour": ("system:serviceaccount:projectcontour:contour", None),
    "volumes": ("rehearsal-volumes", "system:masters"),
}
_SERVERS = {
    "apiserver": (LOOPBACK, "localhost", BRIDGE_ADDRESS, "10.214.0.1", "kubernetes.default.svc"),
    "kubelet-server": (BRIDGE_ADDRESS, LOOPBACK, NODE),
    "kserve-webhook": (LOOPBACK,),
    "loopback": (LOOPBACK,),
    "ngc": (LOOPBACK, "localhost", BRIDGE_ADDRESS, "nvcr.io", "api.ngc.nvidia.com"),
    "token-signing": ("rehearsal",),
    "service-accounts": ("rehearsal",),
}


def ensure_ca(layout: Layout) -> None:
    """Make the CA once for a cache."""
    if not layout.ca.exists():
        layout.pki.mkdir(parents=True, exist_ok=True)
        ca = trustme.CA(organization_name="gpuops.nim rehearsal")
        _write(layout.pki / "ca.key", ca.private_key_pem.bytes())
        _write(layout.ca, ca.cert_pem.bytes())


def ensure_certificates(layout: Layout) -> None:
    """Make every certificate and kubeconfig of a new state (those of an old one stay: they are valid for years)."""
    if layout.kubeconfig.exists():
        return
    ca = trustme.CA.from_pem(layout.ca.read_bytes(), (layout.pki / "ca.key").read_bytes())
    folder = layout.state / "pki"
    folder.mkdir(parents=True, exist_ok=True)
    for name, (user, group) in _USERS.items():
        # a host name too: an empty list of names is a critical extension that Go refuses
        leaf = ca.issue_cert(name, common_name=user, organization_name=group)
        _save(folder / name, leaf)
        _write(layout.config / f"{name}.kubeconfig", _kubeconfig(ca, leaf, user))
    for name, hosts in _SERVERS.items():
        _save(folder / name, ca.issue_cert(*hosts, common_name=hosts[0]))
    # last, because its presence says that the rest is there
    admin = ca.issue_cert("admin", common_name="admin", organization_name="system:masters")
    _write(layout.kubeconfig, _kubeconfig(ca, admin, "admin"))


def node(layout: Layout, name: str, address: str) -> dict[str, bytes]:
    """Of another node's kubelet: its kubeconfig, and what it serves with."""
    ca = trustme.CA.from_pem(layout.ca.read_bytes(), (layout.pki / "ca.key").read_bytes())
    user = f"system:node:{name}"
    client = ca.issue_cert(name, common_name=user, organization_name="system:nodes")
    server = ca.issue_cert(address, name)
    return {
        "kubelet.kubeconfig": _kubeconfig(ca, client, user),
        "kubelet-server.crt": server.cert_chain_pems[0].bytes(),
        "kubelet-server.key": server.private_key_pem.bytes(),
        "ca.crt": layout.ca.read_bytes(),
    }


def certificate(layout: Layout, name: str) -> tuple[Path, Path]:
    """(certificate, key) of a server or user."""
    return layout.state / "pki" / f"{name}.crt", layout.state / "pki" / f"{name}.key"


def _kubeconfig(ca: trustme.CA, leaf: trustme.LeafCert, user: str) -> bytes:
    def data(blob: bytes) -> str:
        return base64.b64encode(blob).decode()

    document: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "rehearsal",
        "clusters": [
            {
                "name": "rehearsal",
                "cluster": {
                    "server": url("apiserver", "https"),
                    "certificate-authority-data": data(ca.cert_pem.bytes()),
                },
            }
        ],
        "users": [
            {
                "name": user,
                "user": {
                    "client-certificate-data": data(leaf.cert_chain_pems[0].bytes()),
                    "client-key-data": data(leaf.private_key_pem.bytes()),
                },
            }
        ],
        "contexts": [{"name": "rehearsal", "context": {"cluster": "rehearsal", "user": user}}],
    }
    return yaml.safe_dump(document, sort_keys=False).encode()


def _save(stem: Path, leaf: trustme.LeafCert) -> None:
    _write(stem.with_suffix(".crt"), leaf.cert_chain_pems[0].bytes())
    _write(stem.with_suffix(".key"), leaf.private_key_pem.bytes())


def _write(path: Path, content: bytes) -> None:
    """Whole or not at all, and for the owner only."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.new")
    with open(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)
    scratch.replace(path)
