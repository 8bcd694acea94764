# SPDX-License-Identifier: GPL-3.0-or-later
"""A signed apt repository of NVIDIA's container toolkit on loopback, laid out like NVIDIA's own.

Real: the programs, their units, udev rules and maintainer scripts, the names of the packages and what they depend on.
Not real: all releases are built of one source (toolchain.py), and libnvidia-container, which is C and not on the Go
module proxy, is two packages without files. The key is made here and is worth nothing elsewhere.
"""

from __future__ import annotations

import hashlib
import shlex
import shutil
import socket
import sys
import tempfile
import time
from pathlib import Path

from rehearsal import system, toolchain
from rehearsal.command import run
from rehearsal.errors import RehearsalError
from rehearsal.layout import LOOPBACK, PORTS, Layout, url
from rehearsal.namespace import Namespace
from rehearsal.progress import Progress

ADDRESS = f"{url('packages')}/libnvidia-container"  # in the place of https://nvidia.github.io/libnvidia-container
_DEB = "libnvidia-container/stable/deb/amd64"
_START_SECONDS = 10.0
# what debhelper appends to the upstream's script for units that a package brings
_START_UNITS = """
if [ "$1" = configure ]; then
    for unit in nvidia-cdi-refresh.path nvidia-cdi-refresh.service; do
        deb-systemd-helper was-enabled "$unit" >/dev/null && deb-systemd-helper enable "$unit" >/dev/null || true
    done
    if [ -d /run/systemd/system ]; then
        systemctl --system daemon-reload >/dev/null || true
        deb-systemd-invoke start nvidia-cdi-refresh.path nvidia-cdi-refresh.service >/dev/null || true
    fi
fi
"""
_STOP_UNITS = """#!/bin/sh
set -e
if [ "$1" = remove ] && [ -d /run/systemd/system ]; then
    deb-systemd-invoke stop nvidia-cdi-refresh.path nvidia-cdi-refresh.service >/dev/null || true
fi
"""


def up(layout: Layout, progress: Progress) -> None:
    """Have the repository built and served. Raises RehearsalError."""
    system.install(progress, system.PACKAGING_PACKAGES)
    names = [f"nvidia-container-toolkit-{release}" for release in toolchain.CONTAINER_TOOLKIT]
    folders = toolchain.build(layout, progress, *names).folders
    _build(layout, progress, {release: folders[f"nvidia-container-toolkit-{release}"] for release in _releases()})
    server = _server(layout)
    if not server.running():
        command = [sys.executable, "-m", "http.server", "--bind", LOOPBACK, "--directory", str(layout.packages)]
        server.start(f"exec {shlex.join([*command, str(PORTS['packages'])])}", layout.state / "packages" / "log")
    deadline = time.monotonic() + _START_SECONDS
    while not _answers():
        if time.monotonic() > deadline or not server.running():
            log = (layout.state / "packages" / "log").read_text()
            raise RehearsalError(f"The repository is not served on {url('packages')}:\n{log[-600:]}")
        time.sleep(0.02)


def down(layout: Layout) -> None:
    """Stop serving; what was built stays in the cache."""
    _server(layout).kill()


def fingerprint(layout: Layout) -> str:
    """Of the key that signs the repository."""
    return (layout.packages / "fingerprint").read_text().strip()


def _releases() -> tuple[str, ...]:
    return toolchain.CONTAINER_TOOLKIT


def _server(layout: Layout) -> Namespace:
    folder = layout.state / "packages"
    folder.mkdir(parents=True, exist_ok=True)
    return Namespace(folder)


def _answers() -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((LOOPBACK, PORTS["packages"])) == 0


# --- what is served ---------------------------------------------------------------------------------------------------
def _build(layout: Layout, progress: Progress, programs: dict[str, Path]) -> None:
    digest = hashlib.sha256(Path(__file__).read_bytes() + repr(programs).encode()).hexdigest()
    stamp = layout.packages / "stamp"
    if stamp.is_file() and stamp.read_text() == digest:
        return
    with (
        progress.step("packing the container toolkit"),
        tempfile.TemporaryDirectory(dir=layout.cache, prefix=".packages-") as scratch,
    ):
        root = Path(scratch, "root")
        (root / _DEB).mkdir(parents=True)
        for release, folder in programs.items():
            _pack_release(Path(scratch, release), root / _DEB, release, folder)
        _sign(root, Path(scratch, "gnupg"))
        (root / "stamp").write_text(digest)
        shutil.rmtree(layout.packages, ignore_errors=True)
        root.rename(layout.packages)


def _pack_release(scratch: Path, target: Path, release: str, programs: Path) -> None:
    version, since_1_18 = f"{release}-1", tuple(map(int, release.split("."))) >= (1, 18)
    exact = "=" if since_1_18 else ">="  # before 1.18 nothing kept mixed versions from being installed
    scripts = {script.name: script.read_text() for script in (programs / "debian").glob("*.post*")}
    base = scratch / "nvidia-container-toolkit-base"
    for name in ("nvidia-ctk", "nvidia-container-runtime", "nvidia-cdi-hook"):
        _put(programs / name, base / "usr/bin" / name, 0o755)
    if since_1_18:
        for name in ("nvidia-cdi-refresh.service", "nvidia-cdi-refresh.path"):
            _put(programs / "systemd" / name, base / "lib/systemd/system" / name)
        _put(programs / "systemd/nvidia-cdi-refresh.env", base / "etc/nvidia-container-toolkit/nvidia-cdi-refresh.env")
        order = "10-container-engines.conf"
        _put(programs / "systemd" / order, base / "lib/systemd/system/nvidia-cdi-refresh.service.d" / order)
        rules = "99-nvidia-cdi-refresh.rules"
        _put(programs / "udev" / rules, base / "lib/udev/rules.d" / rules)
    hook = "nvidia-container-runtime-hook"
    _put(programs / hook, scratch / "nvidia-container-toolkit/usr/bin" / hook, 0o755)
    started = _START_UNITS if since_1_18 else ""
    _pack(
        base,
        target,
        version,
        conffiles=["/etc/nvidia-container-toolkit/nvidia-cdi-refresh.env"] if since_1_18 else [],
        scripts={
            "postinst": _script(scripts["nvidia-container-toolkit-base.postinst"], started),
            **({"prerm": _STOP_UNITS} if since_1_18 else {}),
        },
    )
    _pack(
        scratch / "nvidia-container-toolkit",
        target,
        version,
        depends=(
            f"nvidia-container-toolkit-base (= {version}), libnvidia-container-tools ({exact} {version}), "
            "libnvidia-container-tools (<< 2.0.0)"
        ),
        scripts={script: _script(scripts[f"nvidia-container-toolkit.{script}"]) for script in ("postinst", "postrm")},
    )
    _pack(scratch / "libnvidia-container-tools", target, version, depends=f"libnvidia-container1 ({exact} {version})")
    _pack(scratch / "libnvidia-container1", target, version)


def _put(source: Path, target: Path, mode: int = 0o644) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    target.chmod(mode)


def _script(upstream: str, ours: str = "") -> str:
    """debhelper puts its part where the upstream's script says #DEBHELPER#."""
    return upstream.replace("#DEBHELPER#", ours)


def _pack(
    tree: Path,
    target: Path,
    version: str,
    *,
    depends: str = "",
    conffiles: list[str] | None = None,
    scripts: dict[str, str] | None = None,
) -> None:
    control = tree / "DEBIAN"
    control.mkdir(parents=True)
    fields = {
        "Package": tree.name,
        "Version": version,
        "Architecture": "amd64",
        "Maintainer": "gpuops.nim rehearsal <rehearsal@gpuops.invalid>",
        "Depends": depends,
        "Description": "rehearsal's build of NVIDIA's container toolkit",
    }
    (control / "control").write_text("".join(f"{name}: {value}\n" for name, value in fields.items() if value))
    if conffiles:
        (control / "conffiles").write_text("".join(f"{path}\n" for path in conffiles))
    for name, text in (scripts or {}).items():
        (control / name).write_text(text)
        (control / name).chmod(0o755)
    run(["dpkg-deb", "--root-owner-group", "-Zgzip", "--build", str(tree), str(target)])


def _sign(root: Path, home: Path) -> None:
    home.mkdir(mode=0o700)
    gpg = ["gpg", "--homedir", str(home), "--batch", "--quiet", "--passphrase", ""]
    user = "gpuops.nim rehearsal <rehearsal@gpuops.invalid>"
    run([*gpg, "--quick-generate-key", user, "rsa3072", "sign", "never"])
    listed = run([*gpg, "--list-keys", "--with-colons", user])
    own = next(line.split(":")[9] for line in listed.splitlines() if line.startswith("fpr:"))
    (root / "fingerprint").write_text(f"{own}\n")
    (root / "libnvidia-container/gpgkey").write_text(run([*gpg, "--armor", "--export", user]))
    folder = root / _DEB
    (folder / "Packages").write_text(run(["apt-ftparchive", "packages", "."], folder=folder))
    (folder / "Release").write_text(run(["apt-ftparchive", "release", "."], folder=folder))
    run([*gpg, "--digest-algo", "SHA512", "--clearsign", "--output", "InRelease", "Release"], folder=folder)
    run(["gpgconf", "--homedir", str(home), "--kill", "all"])
