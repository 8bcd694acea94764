# SPDX-License-Identifier: GPL-3.0-or-later
"""What ansible-test needs: a real copy of the checkout (it refuses links), and a home for what it builds."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

# ansible-test fetches a script that installs pip; where its host can't be reached, Python's own pip does as well
_GET_PIP = """\
import os, subprocess, sys

if __name__ == "__main__":
    env = {name: value for name, value in os.environ.items() if name != "GET_PIP"}
    subprocess.check_call([sys.executable, "-m", "ensurepip", "--default-pip"], env=env, stdout=subprocess.DEVNULL)
    packages = [arg for arg in sys.argv[1:] if arg not in ("--no-setuptools", "--no-wheel")]
    subprocess.check_call([sys.executable, "-m", "pip", "install", *packages], env=env)
    sys.exit(0)
"""
_GET_PIP_NAMES = ("get_pip_23_1_2.py", "get_pip_24_2.py", "get_pip_25_2.py")  # of 2.17, 2.18 and 2.19, 2.20 and newer
_NOT_PUBLISHED = (
    "rehearsal/",
    "tests/ansible_test.py",
    "tests/bench/",
    "tests/catalogue/",
    "tests/conftest.py",
    "tests/e2e/",
    "tests/elsewhere.py",
    "tests/integration/",
    "tests/interpreters.py",
    "tests/matrix/",
    "tests/peer.py",
    "tests/sanity/test_",
    "tests/unit/",
)


def stage(root: Path, folder: Path) -> Path:
    """A copy of what git tracks or would track, without what is not published: that is held to ruff and mypy alone."""
    listed = subprocess.run(
        ["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root,
        check=True,
        capture_output=True,
        text=True,
    )
    copy = folder / "ansible_collections" / "gpuops" / "nim"
    for name in filter(None, listed.stdout.split("\0")):
        source = root / name
        if source.is_file() and not name.startswith(_NOT_PUBLISHED):
            target = copy / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
    return copy


def prepare_home(home: Path) -> Path:
    """A home of its own, kept between runs."""
    scripts = home / ".ansible" / "test" / "cache"
    scripts.mkdir(parents=True, exist_ok=True)
    for name in _GET_PIP_NAMES:
        (scripts / name).write_text(_GET_PIP)
    settings = Path.home() / ".config" / "pip"
    if settings.is_dir() and not (home / ".config" / "pip").exists():
        (home / ".config").mkdir(exist_ok=True)
        (home / ".config" / "pip").symlink_to(settings)
    return home
