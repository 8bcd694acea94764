# SPDX-License-Identifier: GPL-3.0-or-later
"""Debian systems with systemd to run roles on, as others would run them on machines: systemd-nspawn, reached by ssh.

The root file system of a release is made once, by mmdebstrap, and kept in the cache; each host is a copy of it in the
state folder. A host shares the machine's network, so its sshd has a port of its own on the loopback interface. Ansible
reaches it with ``ansible_ssh_common_args: -F STATE/hosts/ssh_config``, which knows hosts by their names.
"""

from __future__ import annotations

import hashlib
import platform
import re
import shlex
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from rehearsal import apt, system
from rehearsal.command import run
from rehearsal.errors import RehearsalError
from rehearsal.layout import HOST_PORTS, LOOPBACK, Layout
from rehearsal.locking import alone
from rehearsal.namespace import Namespace
from rehearsal.progress import Progress

RELEASES = ("bookworm", "trixie")
_PACKAGES = (
    *("systemd", "systemd-sysv", "dbus", "libpam-systemd", "openssh-server", "ca-certificates"),
    *("iproute2", "kmod", "procps", "udev", "python3", "python3-apt"),
)
_NAME = re.compile(r"[a-z]([a-z0-9-]{0,40}[a-z0-9])?")
_BOOT_SECONDS = 60.0
_REBOOTED = 133  # systemd-nspawn's exit status when the host wants to start again
_NSPAWN = (
    *(
        "systemd-nspawn",
        "--quiet",
        "--boot",
        "--register=no",
        "--keep-unit",
        "--link-journal=no",
        "--console=read-only",
    ),
    "--resolv-conf=copy-host",
    # what a container runtime in it needs
    *("--capability=all", "--system-call-filter=@known", "--bind=/dev/kmsg"),
)


def up(layout: Layout, progress: Progress, name: str, release: str, shared: tuple[Path, ...] = ()) -> None:
    """Have the host of this name running; one that was stopped goes on with what it had. Raises RehearsalError.

    shared: folders of the machine that are the same in the host.
    """
    if not _NAME.fullmatch(name):
        raise RehearsalError(f"{name!r} is no name for a host: letters a to z, digits and hyphens, such as gpu-1")
    if release not in RELEASES:
        raise RehearsalError(f"there is no host with {release!r}; there are {', '.join(RELEASES)}")
    system.check(layout)
    system.install(progress, system.HOST_PACKAGES)
    folder = _folder(layout, name)
    made = base(layout, progress, release)
    with alone(layout.hosts / "lock"):  # two commands at once take no port twice
        if Namespace(folder).running():
            return
        folder.mkdir(exist_ok=True)
        if not (folder / "root").exists():
            _copy(made, folder / "root")
            _settle(layout, folder)
        if shared:
            (folder / "shared").write_text("".join(f"{path}\n" for path in shared))
        with progress.step(f"booting {name} ({release})"):
            _boot(layout, folder)
            _await(layout, folder)


def down(layout: Layout, name: str) -> None:
    """Stop the host and remove all of it. No error where there is none."""
    stop(layout, name)
    system.remove_tree(_folder(layout, name))


def stop(layout: Layout, name: str) -> None:
    """End the host as a power failure would; its files stay for the next ``up``."""
    Namespace(_folder(layout, name)).kill()
    system.remove_cgroup(_cgroup(layout, name))
    if name in names(layout):
        subprocess.run(["ip", "link", "delete", bridge(number(layout, name))], capture_output=True)


def names(layout: Layout) -> list[str]:
    """All hosts, running or not."""
    return sorted(path.parent.name for path in layout.hosts.glob("*/ssh_config"))


def running(layout: Layout, name: str) -> bool:
    return Namespace(_folder(layout, name)).running()


def root(layout: Layout, name: str) -> Path:
    """Its root file system, as it is seen from here."""
    return _folder(layout, name) / "root"


def number(layout: Layout, name: str) -> int:
    """One that no other host of this cluster has, from 1."""
    (port,) = re.findall(r"Port (\d+)", (_folder(layout, name) / "ssh_config").read_text())
    return int(port) - HOST_PORTS[0] + 1


def bridge(number: int) -> str:
    """For its pods, if it is a node (nodes.py)."""
    return f"gpuops{number}"


def ssh_command(layout: Layout, name: str) -> list[str]:
    return ["ssh", "-F", str(layout.hosts / "ssh_config"), name]


# --- the root file system of a release --------------------------------------------------------------------------------
def base(layout: Layout, progress: Progress, release: str) -> Path:
    """Made where it is missing, which needs Debian's archive. Raises RehearsalError."""
    digest = hashlib.sha256(repr((_PACKAGES, apt.MERGED_USR)).encode()).hexdigest()[:16]
    target = layout.cache / "hosts" / f"{release}-{digest}"
    with alone(layout.cache / "hosts" / "lock"):
        if not target.is_dir():
            _make_base(target, progress, release)
    return target


def _make_base(target: Path, progress: Progress, release: str) -> None:
    if platform.freedesktop_os_release()["ID"] != "debian":
        raise RehearsalError("Hosts are made of Debian's packages, from the sources of a Debian machine; this is none.")
    with (
        progress.step(f"making the root file system of {release}"),
        tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{release}-") as scratch,
    ):
        options, root = Path(scratch, "apt.conf"), Path(scratch, "root")
        options.write_text(apt.options())
        command = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(_PACKAGES)}"]
        run([*command, f"--aptopt={options}", release, str(root), "-"], text=apt.sources(release))
        for key in root.glob("etc/ssh/ssh_host_*"):
            key.unlink()  # each host makes its own
        for old in target.parent.glob(f"{release}-*"):
            shutil.rmtree(old)
        root.rename(target)


# --- one host ---------------------------------------------------------------------------------------------------------
def _folder(layout: Layout, name: str) -> Path:
    return layout.hosts / name


def _cgroup(layout: Layout, name: str) -> str:
    return f"{layout.cgroup}-{name}"


def _copy(base: Path, root: Path) -> None:
    unfinished = root.with_name("root.new")
    shutil.rmtree(unfinished, ignore_errors=True)
    run(["cp", "--archive", "--reflink=auto", str(base), str(unfinished)])
    unfinished.rename(root)


def _settle(layout: Layout, folder: Path) -> None:
    """Give the host its name, its keys, and a port for its sshd."""
    name, root, port = folder.name, folder / "root", _free_port(layout)
    key = layout.hosts / "id_ed25519"
    if not key.exists():
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "gpuops.nim rehearsal", "-f", str(key)])
    run(["ssh-keygen", "-A", "-f", str(root)])
    (root / "etc/hostname").write_text(f"{name}\n")
    (root / "etc/hosts").write_text(f"{LOOPBACK} localhost {name}\n::1 localhost\n")
    (root / "etc/machine-id").write_text("")  # made at the first boot
    (root / "root/.ssh").mkdir(mode=0o700, exist_ok=True)
    shutil.copy(key.with_suffix(".pub"), root / "root/.ssh/authorized_keys")
    (root / "etc/ssh/sshd_config.d/rehearsal.conf").write_text(f"ListenAddress {LOOPBACK}:{port}\nUseDNS no\n")
    host_key = (root / "etc/ssh/ssh_host_ed25519_key.pub").read_text()
    (folder / "known_hosts").write_text(f"[{LOOPBACK}]:{port} {host_key}")
    (folder / "ssh_config").write_text(
        f"Host {name}\n  HostName {LOOPBACK}\n  Port {port}\n  User root\n  IdentityFile {key}\n  IdentitiesOnly yes\n"
        f"  UserKnownHostsFile {folder}/known_hosts\n  StrictHostKeyChecking yes\n"
    )
    (layout.hosts / "ssh_config").write_text(f'Include "{layout.hosts}/*/ssh_config"\n')


def _free_port(layout: Layout) -> int:
    known = "".join(path.read_text() for path in layout.hosts.glob("*/ssh_config"))
    taken = {int(port) for port in re.findall(r"Port (\d+)", known)}
    for port in HOST_PORTS:
        with socket.socket() as probe:
            if port not in taken and probe.connect_ex((LOOPBACK, port)) != 0:
                return port
    raise RehearsalError(f"no port from {HOST_PORTS[0]} to {HOST_PORTS[-1]} is free: remove a host (host down NAME)")


def _boot(layout: Layout, folder: Path) -> None:
    group = _cgroup(layout, folder.name)
    system.make_cgroup(group)
    folders = [path for path in system.cgroup_folders(group) if path.is_dir()]
    shared = folder / "shared"
    binds = [f"--bind={path}" for path in shared.read_text().split()] if shared.exists() else []
    command = [*_NSPAWN, *binds, f"--directory={folder}/root", f"--machine={folder.name}"]
    if system.cgroup_version() == 1:
        command.append("SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1")  # else systemd 256 and newer refuses to boot
        enter = [f"echo 0 > {path}/cgroup.procs" for path in folders]
        first = []
    else:
        # a group of each boot's own: one that gives those below controllers takes no process
        enter = [f"mkdir {path}/$$; echo 0 > {path}/$$/cgroup.procs" for path in folders]
        # systemd-nspawn gives its host what the group of process 1 has
        first = [f"mkdir -p {path}/first; echo 0 > {path}/first/cgroup.procs" for path in folders]
    once = "; ".join([*enter, f"exec {shlex.join(command)}"])
    again = f"while sh -c {shlex.quote(once)}; [ $? = {_REBOOTED} ]; do :; done"
    Namespace(folder).start("\n".join([*first, again]), folder / "console.log")


def _await(layout: Layout, folder: Path) -> None:
    ask = [*ssh_command(layout, folder.name), "systemctl", "is-system-running", "--wait"]
    deadline, said = time.monotonic() + _BOOT_SECONDS, ""
    while time.monotonic() < deadline and Namespace(folder).running():
        done = subprocess.run(ask, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        said = (done.stdout or done.stderr).strip()
        if said in ("running", "degraded"):
            return
        time.sleep(0.1)
    tail = (folder / "console.log").read_text(errors="replace")[-1500:]
    raise RehearsalError(f"{folder.name} did not boot ({said}). The end of {folder}/console.log:\n{tail}")
