# SPDX-License-Identifier: GPL-3.0-or-later
"""What the machine must have, and what of it the rehearsal can install or has to ask for."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from rehearsal.errors import RehearsalError
from rehearsal.layout import Layout
from rehearsal.progress import Progress

CNI_PLUGINS = Path("/usr/lib/cni")
_CGROUP = Path("/sys/fs/cgroup")
_CONTROLLERS = ("cpu", "cpuset", "memory", "pids")

# what is looked for -> the Debian and Ubuntu package that has it
_PACKAGES = {
    "runc": "runc",
    "ip": "iproute2",
    "unshare": "util-linux",
    "mount": "mount",
    "mmdebstrap": "mmdebstrap",
    str(CNI_PLUGINS / "bridge"): "containernetworking-plugins",
}
# the same for hosts (hosts.py)
HOST_PACKAGES = {
    "unshare": "util-linux",
    "mmdebstrap": "mmdebstrap",
    "systemd-nspawn": "systemd-container",
    "ssh": "openssh-client",
}
# and for the repository of packages (packages.py)
PACKAGING_PACKAGES = {
    "gcc": "gcc",
    "gencat": "libc6-dev",
    "dpkg-deb": "dpkg",
    "apt-ftparchive": "apt-utils",
    "gpg": "gnupg",
}


def check(layout: Layout) -> None:
    """Say everything that no package can mend, at once. Raises RehearsalError."""
    wrong = []
    if os.geteuid() != 0:
        wrong.append("run it as root (sudo): containers, mounts and a network bridge need it")
    if os.uname().sysname != "Linux" or os.uname().machine != "x86_64":
        wrong.append(f"Linux on x86_64 is needed, this is {os.uname().sysname} on {os.uname().machine}")
    if "overlay" not in Path("/proc/filesystems").read_text():
        subprocess.run(["modprobe", "overlay"], capture_output=True)
        if "overlay" not in Path("/proc/filesystems").read_text():
            wrong.append("the kernel has no overlay file system (modprobe overlay)")
    if cgroup_version() == 0:
        wrong.append(f"no cgroups under {_CGROUP}: mount them, or run where the host's are visible (and writable)")
    else:
        lacking = [name for name in _CONTROLLERS if not _has_controller(name)]
        if lacking:
            wrong.append(f"the cgroup controllers {', '.join(lacking)} are missing under {_CGROUP}")
    if len(str(layout.containerd_socket)) + len(".ttrpc") > 107:
        wrong.append(f"{layout.state} is too long a path for a unix socket: set GPUOPS_NIM_STATE to a shorter one")
    if wrong:
        raise RehearsalError("The rehearsal can't run here:\n" + "\n".join(f"  - {line}" for line in wrong))


def install(progress: Progress, packages: Mapping[str, str] = _PACKAGES) -> None:
    """Install the packages that are missing. Raises RehearsalError naming them where that is not possible."""
    missing = sorted({package for program, package in packages.items() if not shutil.which(program)})
    if not missing:
        return
    if not shutil.which("apt-get"):
        raise RehearsalError(
            f"These programs are missing: {', '.join(missing)} (names of Debian packages). "
            "They are installed for you on Debian and Ubuntu; here, please install them by your package manager."
        )
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    with progress.step(f"installing {', '.join(missing)}"):
        command = ["apt-get", "install", "--yes", "--no-install-recommends", *missing]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:  # lists may be missing or old
            subprocess.run(["apt-get", "update"], env=environment, capture_output=True)
            done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RehearsalError(f"apt-get could not install {', '.join(missing)}:\n{done.stderr.strip()[-600:]}")


def cgroup_version() -> int:
    """2 for the unified hierarchy, 1 for the old ones (also hybrid), 0 for none."""
    if (_CGROUP / "cgroup.controllers").exists():
        return 2
    return 1 if (_CGROUP / "memory").is_dir() else 0


def _has_controller(name: str) -> bool:
    if cgroup_version() == 2:
        return name in (_CGROUP / "cgroup.controllers").read_text().split()
    return (_CGROUP / name).is_dir()


def cgroup_folders(name: str) -> list[Path]:
    """The folders of one cgroup: one with version 2, one for each hierarchy with version 1."""
    if cgroup_version() == 2:
        return [_CGROUP / name]
    hierarchies = [folder for folder in sorted(_CGROUP.iterdir()) if folder.is_dir() and not folder.is_symlink()]
    return [hierarchy / name for hierarchy in hierarchies]


def make_cgroup(name: str) -> None:
    """Make a cgroup that others make theirs below, with the controllers that the kubelet looks for."""
    if cgroup_version() == 2:
        (group,) = cgroup_folders(name)
        group.mkdir(exist_ok=True)
        for folder in (_CGROUP, group):
            for controller in _CONTROLLERS:
                with contextlib.suppress(OSError):  # the kubelet says what it lacks
                    (folder / "cgroup.subtree_control").write_text(f"+{controller}")
        return
    for group in cgroup_folders(name):
        with contextlib.suppress(OSError):  # a hierarchy without a controller of its own may refuse
            group.mkdir(exist_ok=True)
        for setting in ("cpuset.cpus", "cpuset.mems"):
            if (group / setting).exists():  # empty, it takes no process
                (group / setting).write_text((group.parent / setting).read_text())


def remove_cgroup(name: str) -> None:
    """Remove a cgroup with those below it. Its processes must have ended."""
    for root in cgroup_folders(name):
        for folder, _, _ in os.walk(root, topdown=False):
            for _ in range(50):  # the kernel lets go of a group a moment after its last process
                with contextlib.suppress(OSError):
                    os.rmdir(folder)
                if not os.path.exists(folder):
                    break
                time.sleep(0.02)


def remove_tree(folder: Path) -> None:
    """Remove all of it. Raises RehearsalError where something is mounted in it, which would be emptied, too.

    The rehearsal's own mounts are in namespaces of their own.
    """
    points = [Path(line.split()[4]) for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    if mounted := sorted(str(point) for point in points if folder in point.parents):
        raise RehearsalError(f"Not removed, since others have mounted something in it: {', '.join(mounted)}")
    shutil.rmtree(folder, ignore_errors=True)


def forward() -> None:
    """Let packets go from pods to others, as CNI's bridge does, which can't in a host that is a node."""
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")


def overlay_works_on(folder: Path) -> bool:
    """False where ``folder`` lies on an overlay itself (inside a container): containerd then copies instead."""
    found = subprocess.run(["findmnt", "-n", "-o", "FSTYPE", "-T", str(folder)], capture_output=True, text=True)
    return found.stdout.strip() != "overlay"
