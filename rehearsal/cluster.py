# SPDX-License-Identifier: GPL-3.0-or-later
"""Up and down: folders, network and configuration, then every part as soon as those before it work."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shlex
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

from rehearsal import hosts, images, manifests, packages, parts, pki, supervision, system, templates, toolchain
from rehearsal import layout as where
from rehearsal.command import run
from rehearsal.errors import RehearsalError
from rehearsal.layout import COMPILED_IN, PAUSE_IMAGE, Layout
from rehearsal.progress import Progress
from rehearsal.standins import gpu
from rehearsal.supervision import Supervision
from rehearsal.toolchain import Toolchain

_WORKS_SECONDS = 90.0
_MANIFESTS = "manifests"


def up(layout: Layout, progress: Progress, kserve: str = toolchain.DEFAULT_KSERVE, bare: bool = False) -> None:
    """Bring the cluster up, from whatever state the machine is in. Does nothing but look where it is up already.

    kserve: the release to run; a cluster that runs another one changes over to it.
    bare: a new cluster has neither KServe nor GPUs, and its registry has the images from which both are installed.
    """
    system.check(layout)
    system.install(progress)
    if bare and not layout.bare.exists():
        if layout.kubeconfig.exists():
            raise RehearsalError("this cluster is not a bare one: python -m rehearsal down --purge, then up --bare")
        layout.state.mkdir(parents=True, exist_ok=True)
        layout.bare.touch()
    tools = toolchain.build_with_kserve(layout, progress, kserve, *(images.PARTS if layout.bare.exists() else ()))
    watched = Supervision(layout)
    if not watched.running():
        _clean(layout)
        _prepare(layout, tools)
        watched.boot()
    elif kserve_release(layout) != kserve and not layout.bare.exists():
        _configure(layout, tools)
        watched.renew("kserve")
    layout.kserve_release.write_text(kserve)
    _start(layout, tools, watched, progress)


def kserve_release(layout: Layout) -> str:
    """The release of KServe that runs, or ran last."""
    return layout.kserve_release.read_text() if layout.kserve_release.exists() else toolchain.DEFAULT_KSERVE


def down(layout: Layout, purge: bool = False) -> None:
    """Stop everything and take away what lies outside the cache and state folders; ``purge`` removes the state too."""
    Supervision(layout).kill()
    for host in hosts.names(layout):
        hosts.stop(layout, host)
    packages.down(layout)
    if _made_folders(layout).exists():  # else there was no cluster of this state, and the bridge is another's
        _clean(layout)
    if purge:
        system.remove_tree(layout.state)


def status(layout: Layout) -> list[dict[str, Any]]:
    """A row a part: part, process (supervisord's word), works (bool), since (text)."""
    tools = toolchain.ready(layout)
    watched = Supervision(layout)
    if not tools or not watched.running():
        return []
    states = watched.states()
    of = {"kserve": f", release {kserve_release(layout)}"}
    return [
        {
            "part": part.name,
            "process": states[part.name]["statename"].lower(),
            "works": part.works(),
            "since": states[part.name]["description"] + of.get(part.name, ""),
        }
        for part in parts.table(layout, tools)
    ]


def _prepare(layout: Layout, tools: Toolchain) -> None:
    """Folders, certificates, configuration, bridge and cgroups: what has to be there before any process."""
    for folder in (layout.config, layout.logs, layout.volumes, layout.registry_storage):
        folder.mkdir(parents=True, exist_ok=True)
    pki.ensure_ca(layout)
    pki.ensure_certificates(layout)
    # of a boot before this one; a machine's own would be gone with its /run
    shutil.rmtree(layout.state / "containerd" / "run", ignore_errors=True)
    _configure(layout, tools)
    made = [folder for folder in COMPILED_IN if not os.path.isdir(folder)]
    _made_folders(layout).write_text("\n".join(made))
    for missing in made:
        os.makedirs(missing)
    system.make_cgroup(layout.cgroup)
    prefix = where.POD_NETWORK.split("/")[1]
    run(["ip", "link", "add", where.BRIDGE, "type", "bridge"])
    run(["ip", "address", "add", f"{where.BRIDGE_ADDRESS}/{prefix}", "dev", where.BRIDGE])
    run(["ip", "link", "set", where.BRIDGE, "up"])
    if layout.bare.exists():
        run(["ip", "address", "add", f"{where.API_SERVICE}/32", "dev", where.BRIDGE])


def _made_folders(layout: Layout) -> Path:
    """Names the folders outside the state that were made; is there once a cluster has been started."""
    return layout.state / "made-folders"


def _clean(layout: Layout) -> None:
    """Take away what a past run left on the machine: bridge, cgroups and the folders it made."""
    subprocess.run(["ip", "link", "delete", where.BRIDGE], capture_output=True)
    system.remove_cgroup(layout.cgroup)
    with contextlib.suppress(FileNotFoundError):
        for made in _made_folders(layout).read_text().split():
            with contextlib.suppress(OSError):  # in use by something else since: not ours any more
                os.rmdir(made)
    layout.control_socket.unlink(missing_ok=True)


def _configure(layout: Layout, tools: Toolchain) -> None:
    values = {
        "state": layout.state,
        "config": layout.config,
        "cgroup": layout.cgroup,
        "cgroup_driver": "cgroupfs",
        "pki": layout.state / "pki",
        "kubelet": layout.state / "kubelet",
        "kubelet_health": where.LOOPBACK,
        "containerd": layout.state / "containerd",
        "containerd_run": layout.state / "containerd" / "run",
        "nvidia_handler": layout.bare.exists(),
        "ca": layout.ca,
        "control_socket": layout.control_socket,
        "containerd_socket": layout.containerd_socket,
        "registry_storage": layout.registry_storage,
        "snapshotter": "overlayfs" if system.overlay_works_on(layout.state) else "native",
        "parts": parts.table(layout, tools),
    }
    targets = {"10-rehearsal.conflist": "cni/10-rehearsal.conflist", "hosts.toml": "registries/nvcr.io/hosts.toml"}
    for name in templates.names():
        path = layout.config / targets.get(name, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(templates.render(name, values))
    webhook = layout.config / "kserve" / "k8s-webhook-server" / "serving-certs"
    webhook.mkdir(parents=True, exist_ok=True)
    for source, name in zip(pki.certificate(layout, "kserve-webhook"), ("tls.crt", "tls.key"), strict=True):
        shutil.copy(source, webhook / name)
    run(
        [
            tools.program("contour", "contour"),
            "bootstrap",
            f"--admin-address={layout.state}/envoy-admin.sock",
            f"--xds-address={where.LOOPBACK}",
            f"--xds-port={where.PORTS['contour-xds']}",
            str(layout.config / "envoy.json"),
        ]
    )


def _start(layout: Layout, tools: Toolchain, watched: Supervision, progress: Progress) -> None:
    """Start each part when those it waits for work, and wait until all do. An error has the part's last words."""
    waiting, started, works = list(parts.table(layout, tools)), list[parts.Part](), set[str]()
    applied: subprocess.Popen[str] | None = None
    deadline = time.monotonic() + _WORKS_SECONDS
    with progress.step("starting the cluster"):
        while waiting or len(started) > len(works - {_MANIFESTS}):
            for part in [part for part in waiting if works.issuperset(part.after)]:
                watched.start(part.name)
                waiting.remove(part)
                started.append(part)
            works.update(part.name for part in started if part.name not in works and part.works())
            if "apiserver" in works and applied is None:
                applied = _apply_manifests(layout, tools)
            if applied and _MANIFESTS not in works and _over(applied):
                works.add(_MANIFESTS)
            states = watched.states()
            for part in [part for part in started if part.name not in works]:
                word = states[part.name]["statename"]
                if word == "FATAL" or time.monotonic() > deadline:
                    raise RehearsalError(
                        f"{part.name} does not work ({word.lower()}). The end of {layout.logs / part.name}.log:\n"
                        + supervision.last_words(layout, part.name)
                    )
            time.sleep(0.1)
    images.build_and_push(layout, tools, progress)
    if layout.bare.exists():
        images.push_platform(layout, tools, progress)
    _renew_images(layout, tools)
    with progress.step("the node" if layout.bare.exists() else "the node and its GPUs"):
        _ready_node(layout, tools)


def _renew_images(layout: Layout, tools: Toolchain) -> None:
    """Give containerd the sandbox's image, and have it forget images that were pushed anew under the same tags."""
    ctr = [tools.program("containerd", "ctr"), f"--address={layout.containerd_socket}", "--namespace=k8s.io", "images"]
    known = run([*ctr, "ls", "--quiet"]).split()
    if PAUSE_IMAGE not in known:
        run([*ctr, "import", str(images.pause(layout, tools))])
    stamp, pushed = layout.state / "images.stamp", images.stamp(layout).read_text()
    if layout.bare.exists():
        pushed += images.platform_stamp(layout).read_text()
    if not stamp.exists() or stamp.read_text() != pushed:
        if old := [name for name in known if name.startswith("nvcr.io/")]:
            run([*ctr, "rm", *old])
        stamp.write_text(pushed)


def _apply_manifests(layout: Layout, tools: Toolchain) -> subprocess.Popen[str]:
    """Apply them beside the start of the parts that don't need them, unless this state has had just these."""
    paths = manifests.paths(layout, tools)
    digest = hashlib.sha256(b"".join(str(path).encode() + path.read_bytes() for path in paths)).hexdigest()
    stamp = layout.state / "manifests.stamp"
    program = shlex.join(kubectl_command(layout, tools))
    files = shlex.join(f"--filename={path}" for path in paths)
    wait = f"{program} wait --for=condition=Established customresourcedefinition --all --timeout=30s"
    script = (
        f"{program} apply --server-side --force-conflicts {files}"
        f" && {{ {wait} || {{ sleep 1 && {wait}; }}; }}"  # it can't read one that has no conditions at all yet
        f" && echo {digest} > {shlex.quote(str(stamp))}"
    )
    return subprocess.Popen(
        "true" if stamp.exists() and stamp.read_text().strip() == digest else script,
        shell=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def _over(process: subprocess.Popen[str]) -> bool:
    if process.poll() is None:
        return False
    if process.returncode:
        raise RehearsalError("The cluster's own objects were refused:\n" + (process.communicate()[1] or "")[-1200:])
    return True


def _ready_node(layout: Layout, tools: Toolchain) -> None:
    node = f"node/{where.NODE}"
    kubectl(layout, tools, "wait", "--for=create", node, "--timeout=60s")
    if not layout.bare.exists():
        kubectl(layout, tools, "patch", node, "--subresource=status", "-p", json.dumps(gpu.resources()))
        kubectl(layout, tools, "patch", node, "-p", json.dumps(gpu.labels()))
    kubectl(layout, tools, "wait", "--for=condition=Ready", node, "--timeout=60s")


def kubectl_command(layout: Layout, tools: Toolchain) -> list[str]:
    """kubectl as the administrator, keeping its cache in the state folder."""
    program = tools.program("kubernetes", "kubectl")
    return [program, f"--kubeconfig={layout.kubeconfig}", f"--cache-dir={layout.state}/kubectl-cache"]


def kubectl(layout: Layout, tools: Toolchain, *arguments: str) -> str:
    """Run kubectl as the administrator. Raises RehearsalError with its words."""
    return run([*kubectl_command(layout, tools), *arguments])
