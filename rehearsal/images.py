# SPDX-License-Identifier: GPL-3.0-or-later
"""The images of the rehearsal: NIM stand-ins in the registry, and the sandbox's image for containerd.

Everything is kept in the cache under a name made of what went into it, so a change rebuilds what depends on it and
nothing else. A stamp beside the registry's data says what has been pushed there.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rehearsal import apt
from rehearsal.command import run
from rehearsal.errors import RehearsalError
from rehearsal.layout import BRIDGE_ADDRESS, GPUS, LOOPBACK, PAUSE_IMAGE, PORTS, SOURCE, Layout, url
from rehearsal.progress import Progress
from rehearsal.standins import ngc
from rehearsal.toolchain import DEFAULT_KSERVE, Toolchain


@dataclass(frozen=True)
class Image:
    """One tag of one NIM. model: ``meta/llama3-8b-instruct``; kind: chat, embedding or ranking."""

    model: str
    release: str
    kind: str = "chat"

    @property
    def name(self) -> str:
        return f"nim/{self.model}:{self.release}"


IMAGES = (
    Image("meta/llama3-8b-instruct", "1.0.0"),
    Image("meta/llama3-8b-instruct", "1.0.3"),
    Image("meta/llama-3.1-8b-instruct", "1.3.0"),
    Image("meta/llama-3.1-8b-instruct", "2.0.12"),
    Image("nvidia/nv-embedqa-e5-v5", "1.0.0", "embedding"),
    Image("nvidia/nv-rerankqa-mistral-4b-v3", "1.0.0", "ranking"),
)

PARTS = ("kube-rbac-proxy", "kserve-manifests", "k8s-device-plugin-chart")  # optional parts that a bare cluster needs
PLUGIN = "nvidia/k8s-device-plugin:v0.20.0"  # the name of NVIDIA's, so that a role's own defaults find it
EXPORTER = "nvidia/k8s/dcgm-exporter:4.5.3-4.8.2-distroless"  # likewise
_PLUGIN_NEEDS = ("grpcio>=1.66", "protobuf>=5", "PyYAML>=6")
_PLUGIN_LIBRARY = "libstdc++6"  # a package: the wheel of grpcio is written in C++
_COMMAND = "#!/bin/sh\nPYTHONPATH=/opt/plugin/lib exec python3 -u /opt/plugin/{}.py\n"
_ON_GPU_NODES = {PLUGIN: ("device_plugin", "nvidia-device-plugin"), EXPORTER: ("dcgm_exporter", "dcgm-exporter")}
_NOBODY = 65532

_PLATFORM = "linux/amd64"
_USER = 1000
_PACKAGES = ("python3-minimal", "libpython3-stdlib", "ca-certificates", "dash")
_STRIPPED = (
    *("boot", "var/lib/apt", "var/cache", "var/lib/dpkg", "var/log", "usr/share/doc", "usr/share/man"),
    *("usr/share/locale", "usr/share/info", "usr/share/lintian", "usr/share/zoneinfo", "usr/lib/*/gconv"),
    *("usr/lib/python3*/pydoc_data", "usr/lib/python3*/lib2to3", "usr/lib/python3*/ensurepip"),
    "usr/lib/python3*/idlelib",
)
# nobody can write there later, and the time of a file must not matter
_COMPILE = ("/usr/bin/python3", "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", "/usr/lib")
_PASSWD = f"root:x:0:0:root:/root:/bin/sh\nnim:x:{_USER}:{_USER}:nim:/opt/nim:/bin/sh\n"
_GROUP = f"root:x:0:\nnim:x:{_USER}:\n"


def build_and_push(layout: Layout, tools: Toolchain, progress: Progress) -> None:
    """Have all of IMAGES in the registry. The registry and the ngc stand-in must be up. Raises RehearsalError."""
    root, program = _root_key(), _layer(layout)
    wanted = _digest(root, program, IMAGES, _environment(IMAGES[0]))
    if stamp(layout).is_file() and stamp(layout).read_text() == wanted:
        return
    layers = (_root(layout, root, progress), _keep(layout, "program", _digest(program), program, ".tar"))
    with progress.step(f"pushing {len(IMAGES)} NIM images"), _login(layout) as environment:
        registry = f"{LOOPBACK}:{PORTS['ngc']}"
        base = f"{registry}/rehearsal/base:1"
        _crane(tools, environment, "append", *(f"--new_layer={layer}" for layer in layers), f"--new_tag={base}")
        for image in IMAGES:
            _crane(
                tools,
                environment,
                *("mutate", base, f"--tag={registry}/{image.name}", f"--set-platform={_PLATFORM}"),
                *("--entrypoint=/usr/bin/python3,-I,-S,/opt/nim/nim.py", "--workdir=/opt/nim", f"--user={_USER}"),
                *("--exposed-ports=8000/tcp", *(f"--env={entry}" for entry in _environment(image))),
            )
    stamp(layout).write_text(wanted)


def push_platform(layout: Layout, tools: Toolchain, progress: Progress) -> None:
    """Have the images of KServe's own pods, a device plugin and an exporter in the registry. Raises RehearsalError."""
    programs = {
        f"rehearsal/kserve/kserve-controller:v{DEFAULT_KSERVE}": ("/manager", tools.program("kserve", "manager")),
        "rehearsal/brancz/kube-rbac-proxy:v0.18.0": (
            "/usr/local/bin/kube-rbac-proxy",
            tools.program("kube-rbac-proxy", "kube-rbac-proxy"),
        ),
    }
    entries: dict[str, tuple[int, int, bytes | None]] = {"opt/plugin": (0o755, 0, None)}
    for source, command in _ON_GPU_NODES.values():
        entries[f"opt/plugin/{source}.py"] = (0o644, 0, (SOURCE / "standins" / f"{source}.py").read_bytes())
        entries[f"usr/bin/{command}"] = (0o755, 0, _COMMAND.format(source).encode())
    manager = Path(tools.program("k8s-device-plugin-chart", "config-manager"))
    entries["usr/bin/config-manager"] = (0o755, 0, manager.read_bytes())
    program = _tar(entries)
    layers = list(fetch(layout, progress))
    wanted = _digest([layer.name for layer in layers], program, _ON_GPU_NODES, GPUS, sorted(programs.items()))
    done = platform_stamp(layout)
    if done.is_file() and done.read_text() == wanted:
        return
    layers.append(_keep(layout, "plugin", _digest(program), program, ".tar"))
    count = len(programs) + len(_ON_GPU_NODES)
    with progress.step(f"pushing {count} images of the platform"), _login(layout) as environment:
        registry = f"{LOOPBACK}:{PORTS['ngc']}"
        for name, (path, binary) in programs.items():
            with _scratch(layout) as scratch:
                layer = scratch / "layer.tar"
                layer.write_bytes(_tar({path.lstrip("/"): (0o755, 0, Path(binary).read_bytes())}))
                _crane(tools, environment, "append", f"--new_layer={layer}", f"--new_tag={registry}/{name}")
            new = f"{registry}/{name}"
            settings = (f"--set-platform={_PLATFORM}", f"--entrypoint={path}", f"--user={_NOBODY}")
            _crane(tools, environment, "mutate", new, f"--tag={new}", *settings)
        base = f"{registry}/{PLUGIN}"
        _crane(tools, environment, "append", *(f"--new_layer={layer}" for layer in layers), f"--new_tag={base}")
        for name, (_source, command) in reversed(_ON_GPU_NODES.items()):  # the one that is the base at last
            new = f"{registry}/{name}"
            settings = (f"--entrypoint={command}", f"--env=STANDIN_GPUS={GPUS}", "--env=PATH=/usr/bin:/bin")
            _crane(tools, environment, "mutate", base, f"--tag={new}", f"--set-platform={_PLATFORM}", *settings)
    done.write_text(wanted)


def push_programs(layout: Layout, tools: Toolchain, name: str, programs: list[Path]) -> None:
    """An image of the base with these programs, whatever was pushed under its name. Raises RehearsalError."""
    registry = f"{LOOPBACK}:{PORTS['ngc']}"
    with _login(layout) as environment, _scratch(layout) as scratch:
        layer = scratch / "layer.tar"
        layer.write_bytes(_tar({f"usr/bin/{program.name}": (0o755, 0, program.read_bytes()) for program in programs}))
        base, settings = f"{registry}/rehearsal/base:1", (f"--set-platform={_PLATFORM}", "--env=PATH=/usr/bin:/bin")
        _crane(tools, environment, "mutate", base, f"--append={layer}", f"--tag={registry}/{name}", *settings)


def platform_stamp(layout: Layout) -> Path:
    """The same for the images of the platform."""
    return layout.registry_storage / "platform.stamp"


def stamp(layout: Layout) -> Path:
    """The file that says what lies in the registry."""
    return layout.registry_storage / "images.stamp"


def pause(layout: Layout, tools: Toolchain) -> Path:
    """The sandbox's image as an archive for ``ctr images import``; its name is PAUSE_IMAGE. Raises RehearsalError."""
    program = Path(tools.program("pause", "pause")).read_bytes()
    archive = layout.cache / "images" / f"pause-{_digest(program, PAUSE_IMAGE)}.tar"
    if archive.is_file():
        return archive
    with _scratch(layout) as scratch, _passing_registry(tools) as registry:
        layer, made = scratch / "layer.tar", scratch / "pause.tar"
        layer.write_bytes(_tar({"pause": (0o755, 0, program)}))
        _crane(tools, {}, "append", f"--new_layer={layer}", f"--new_tag={registry}/pause:1")
        _crane(
            tools,
            {},
            *("mutate", f"{registry}/pause:1", "--entrypoint=/pause", f"--set-platform={_PLATFORM}", "--user=65535"),
            *(f"--tag={PAUSE_IMAGE}", f"--output={made}"),
        )
        return _move(made, archive)


# --- layers -----------------------------------------------------------------------------------------------------------
def _environment(image: Image) -> tuple[str, ...]:
    return (
        "PATH=/usr/local/bin:/usr/bin:/bin",
        "NIM_CACHE_PATH=/opt/nim/.cache",
        f"NIM_STANDIN_MODEL={image.model}",
        f"NIM_STANDIN_RELEASE={image.release}",
        f"NIM_STANDIN_KIND={image.kind}",
        f"NIM_STANDIN_NGC_URL={url('ngc', 'https', BRIDGE_ADDRESS)}",
    )


def _layer(layout: Layout) -> bytes:
    """The layer that changes with this source: the program, the only CA in its system's list, and its user."""
    return _tar(
        {
            "etc/passwd": (0o644, 0, _PASSWD.encode()),
            "etc/group": (0o644, 0, _GROUP.encode()),
            "tmp": (0o1777, 0, None),
            "opt/nim": (0o755, 0, None),
            "opt/nim/.cache": (0o755, _USER, None),
            "opt/nim/nim.py": (0o644, 0, (SOURCE / "standins" / "nim.py").read_bytes()),
            "etc/ssl/certs/ca-certificates.crt": (0o644, 0, layout.ca.read_bytes()),
        }
    )


def _tar(entries: dict[str, tuple[int, int, bytes | None]]) -> bytes:
    """path -> (mode, owner, content; None for a folder), the same bytes every time."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for path, (mode, owner, content) in entries.items():
            entry = tarfile.TarInfo(path)
            entry.mode, entry.uid, entry.gid = mode, owner, owner
            entry.type = tarfile.DIRTYPE if content is None else tarfile.REGTYPE
            entry.size = len(content or b"")
            archive.addfile(entry, io.BytesIO(content or b""))
    return buffer.getvalue()


def _root_key() -> str:
    system = platform.freedesktop_os_release()
    return _digest(system["ID"], system.get("VERSION_CODENAME"), _PACKAGES, _STRIPPED, apt.MERGED_USR, _COMPILE)


def _root(layout: Layout, key: str, progress: Progress) -> Path:
    """The root file system of this machine's own distribution, as a compressed layer."""
    archive = layout.cache / "images" / f"root-{key}.tar.gz"
    if archive.is_file():
        return archive
    with progress.step("making the NIM images' root file system"), _scratch(layout) as scratch:
        root, options = scratch / "root", scratch / "apt.conf"
        root.mkdir()
        options.write_text(apt.options())
        command = ["mmdebstrap", "--quiet", "--variant=extract", "--format=tar", f"--include={','.join(_PACKAGES)}"]
        command += [f"--aptopt={options}", f"--setup-hook={apt.MERGED_USR}"]
        codename = platform.freedesktop_os_release()["VERSION_CODENAME"]
        run([*command, codename, str(scratch / "root.tar"), "-"], text=apt.sources())
        run(["tar", "--extract", f"--file={scratch}/root.tar", f"--directory={root}", "--exclude=./dev/*"])
        for pattern in _STRIPPED:
            for path in root.glob(pattern):
                shutil.rmtree(path)
        run(["chroot", str(root), *_COMPILE])
        made = scratch / "root.tar.gz"
        order = ["--sort=name", "--mtime=@0", "--numeric-owner", "--use-compress-program=gzip -n"]
        run(["tar", "--create", f"--file={made}", f"--directory={root}", *order, "."])
        return _move(made, archive)


def fetch(layout: Layout, progress: Progress) -> tuple[Path, Path]:
    """The layers of the device plugin's image that come from the network. Raises RehearsalError."""
    root = _root(layout, _root_key(), progress)
    return root, _plugin_needs(layout, root, progress)


def _plugin_needs(layout: Layout, root: Path, progress: Progress) -> Path:
    """The libraries of the device plugin for the Python of the root file system, as a layer."""
    with tarfile.open(root) as archive:
        found = next(m for name in archive if (m := re.fullmatch(r"\./usr/lib/python3\.(\d+)", name.name)))
    version = f"3.{found[1]}"
    layer = layout.cache / "images" / f"libraries-{_digest(version, _PLUGIN_NEEDS, _PLUGIN_LIBRARY)}.tar.gz"
    if layer.is_file():
        return layer
    with progress.step("getting the device plugin's libraries"), _scratch(layout) as scratch:
        target = scratch / "root" / "opt" / "plugin" / "lib"
        only = ["--only-binary=:all:", f"--python-version={version}", "--implementation=cp"]
        run([sys.executable, "-m", "pip", "install", "--quiet", f"--target={target}", *only, *_PLUGIN_NEEDS])
        (scratch / "packages").mkdir()
        run(["apt-get", "download", "-o", "APT::Sandbox::User=root", _PLUGIN_LIBRARY], folder=scratch / "packages")
        (package,) = (scratch / "packages").iterdir()
        run(["dpkg-deb", "--extract", str(package), str(scratch / "root")])
        shutil.rmtree(scratch / "root" / "usr" / "share")
        made = scratch / "libraries.tar.gz"
        order = ["--sort=name", "--mtime=@0", "--owner=0", "--group=0", "--use-compress-program=gzip -n"]
        run(["tar", "--create", f"--file={made}", f"--directory={scratch}/root", *order, "."])
        return _move(made, layer)


# --- tools ------------------------------------------------------------------------------------------------------------
def _digest(*parts: object) -> str:
    text = b"\0".join(part if isinstance(part, bytes) else repr(part).encode() for part in parts)
    return hashlib.sha256(text).hexdigest()[:16]


def _keep(layout: Layout, name: str, digest: str, content: bytes, suffix: str) -> Path:
    with _scratch(layout) as scratch:
        (scratch / name).write_bytes(content)
        return _move(scratch / name, layout.cache / "images" / f"{name}-{digest}{suffix}")


def _move(made: Path, target: Path) -> Path:
    """Whole or not at all; what it replaces goes."""
    for old in target.parent.glob(f"{target.name.partition('-')[0]}-*"):
        old.unlink()
    made.rename(target)
    return target


@contextmanager
def _scratch(layout: Layout) -> Iterator[Path]:
    folder = layout.cache / "images"
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".new") as scratch:
        yield Path(scratch)


@contextmanager
def _login(layout: Layout) -> Iterator[dict[str, str]]:
    """The environment in which crane may push and trusts the rehearsal's CA."""
    credentials = base64.b64encode(f"{ngc.USERNAME}:{ngc.KEYS['publisher']}".encode()).decode()
    with tempfile.TemporaryDirectory() as folder:
        auths = {f"{LOOPBACK}:{PORTS['ngc']}": {"auth": credentials}}
        Path(folder, "config.json").write_text(json.dumps({"auths": auths}))
        yield {"DOCKER_CONFIG": folder, "SSL_CERT_FILE": str(layout.ca)}


@contextmanager
def _passing_registry(tools: Toolchain) -> Iterator[str]:
    """A registry in memory, since crane changes the settings of an image only in a registry."""
    command = [tools.program("crane", "crane"), "registry", "serve", f"--address={LOOPBACK}:0"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr
            said = process.stderr.readline()
            port = re.search(r"(\d+)\s*$", said)
            if not port:
                raise RehearsalError(f"crane's registry did not start: {said.strip()}")
            yield f"{LOOPBACK}:{port[1]}"
        finally:
            process.terminate()


def _crane(tools: Toolchain, environment: dict[str, str], *arguments: str) -> None:
    # the loopback needs no proxy, and a user's own docker login no reading
    run([tools.program("crane", "crane"), *arguments], environment={"NO_PROXY": LOOPBACK, **environment})
