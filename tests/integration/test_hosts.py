# SPDX-License-Identifier: GPL-3.0-or-later
"""The hosts that roles are tested on: real systems, and nothing of them stays."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from rehearsal.layout import Layout

pytestmark = pytest.mark.usefixtures("hosts_are_free")


@pytest.fixture(scope="module")
def rehearsal(run, tmp_path_factory):
    """The command with a state folder of its own; the root file systems are the user's."""
    folder = tmp_path_factory.mktemp("hosts")
    ours = {"GPUOPS_NIM_STATE": str(folder), "GPUOPS_NIM_CACHE": str(Layout.from_environment().cache)}

    def rehearsal(*arguments, **more):
        return run(sys.executable, "-m", "rehearsal", *arguments, env=ours, **more)

    rehearsal.layout = Layout(cache=Path(ours["GPUOPS_NIM_CACHE"]), state=folder)
    yield rehearsal
    rehearsal("down", "--purge")


def until(question, seconds=60):
    deadline = time.monotonic() + seconds
    while not (answer := question()) and time.monotonic() < deadline:
        time.sleep(0.2)
    return answer


@pytest.mark.parametrize(("release", "number"), [("bookworm", "12"), ("trixie", "13")])
def test_is_a_whole_debian_that_lives_through_a_reboot(rehearsal, release, number):
    def ssh(command, rc=0):
        return rehearsal("host", "ssh", release, command, rc=rc).stdout.strip()

    rehearsal("host", "up", release, "--release", release)
    assert ssh(". /etc/os-release; echo $ID $VERSION_ID; ps -p 1 -o comm=") == f"debian {number}\nsystemd"
    assert ssh("systemctl is-system-running") == "running"
    assert ssh("uname -n") == release
    last = "journalctl --list-boots --no-pager --quiet | tail -n 1"
    boot = ssh(last)
    ssh("systemctl reboot", rc=None)
    assert until(lambda: (now := ssh(last, rc=None)) and now != boot)


def test_a_host_that_lost_power_goes_on_with_what_it_had(rehearsal):
    rehearsal("host", "up", "power", "--release", "bookworm")
    rehearsal("host", "ssh", "power", "touch /root/kept && sync")
    rehearsal("host", "stop", "power")
    assert "stopped" in rehearsal("host").stdout.partition("power")[2].splitlines()[0]
    rehearsal("host", "up", "power")
    rehearsal("host", "ssh", "power", "test -e /root/kept")


def test_down_leaves_nothing(rehearsal):
    rehearsal("host", "up", "gone", "--release", "bookworm")
    rehearsal("host", "down", "gone")
    assert "gone" not in rehearsal("host").stdout
    assert not (rehearsal.layout.hosts / "gone").exists()
    groups = Path("/sys/fs/cgroup")
    assert not [*groups.glob("gpuops-*-gone"), *groups.glob("*/gpuops-*-gone")]
    command_lines = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if os.access(path, os.R_OK)]
    assert not [line for line in command_lines if b"--machine=gone" in line]


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("up", "Not_A_Name"), "letters a to z"),
        (("up", "x", "--release", "sid"), "invalid choice"),
        (("up", "x", "--node"), "up --bare"),
        (("ssh", "nobody"), "no host 'nobody'"),
    ],
)
def test_bad_input_is_refused(rehearsal, arguments, word):
    done = rehearsal("host", *arguments, rc=None)
    assert done.returncode != 0
    assert word in done.stderr
