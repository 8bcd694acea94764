# SPDX-License-Identifier: GPL-3.0-or-later
"""ansible-core's own checks of a collection, on a real copy of the checkout: ansible-test refuses links."""

from __future__ import annotations

import glob
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

# ansible-test fetches a script that installs pip; where its host can't be reached, Python's own pip does as well
GET_PIP = """\
import os, subprocess, sys

if __name__ == "__main__":
    env = {name: value for name, value in os.environ.items() if name != "GET_PIP"}
    subprocess.check_call([sys.executable, "-m", "ensurepip", "--default-pip"], env=env, stdout=subprocess.DEVNULL)
    packages = [arg for arg in sys.argv[1:] if arg not in ("--no-setuptools", "--no-wheel")]
    subprocess.check_call([sys.executable, "-m", "pip", "install", *packages], env=env)
    sys.exit(0)
"""
NOT_PUBLISHED = (
    "rehearsal/",
    "tests/unit/",
    "tests/integration/",
    "tests/e2e/",
    "tests/sanity/test_",
    "tests/conftest.py",
)
GET_PIP_NAME = "get_pip_24_2.py"  # the one that ansible-core 2.19 looks for


@pytest.fixture
def staged(root, tmp_path) -> Path:
    """A copy of what git tracks or would track, without what is not published: that is held to ruff and mypy alone."""
    listed = subprocess.run(
        ["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root,
        check=True,
        capture_output=True,
        text=True,
    )
    copy = tmp_path / "ansible_collections" / "gpuops" / "nim"
    for name in filter(None, listed.stdout.split("\0")):
        source = root / name
        if source.is_file() and not name.startswith(NOT_PUBLISHED):
            target = copy / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
    return copy


@pytest.fixture
def home(root) -> Path:
    """A home of its own, kept between runs for the environments that ansible-test builds there."""
    home = root / ".cache" / "ansible-test"
    script = home / ".ansible" / "test" / "cache" / GET_PIP_NAME
    script.parent.mkdir(parents=True, exist_ok=True)
    script.write_text(GET_PIP)
    settings = Path.home() / ".config" / "pip"
    if settings.is_dir() and not (home / ".config" / "pip").exists():
        (home / ".config").mkdir(exist_ok=True)
        (home / ".config" / "pip").symlink_to(settings)
    return home


@pytest.fixture
def search_path(tmp_path) -> str:
    """PATH with real interpreters: pyenv's shims for versions that are not switched on are there, and fail."""
    links = tmp_path / "pythons"
    links.mkdir()
    shims = os.path.join(os.environ.get("PYENV_ROOT", os.path.expanduser("~/.pyenv")), "shims")
    path = [folder for folder in os.environ["PATH"].split(os.pathsep) if folder != shims]
    for minor in range(9, 15):
        name = f"python3.{minor}"
        found = [shutil.which(name, path=os.pathsep.join(path))]
        found += glob.glob(f"{os.path.dirname(shims)}/versions/3.{minor}.*/bin/{name}")
        for program in filter(None, found):
            if not subprocess.run([program, "-c", "import ensurepip, venv"], capture_output=True).returncode:
                (links / name).symlink_to(program)
                break
    return os.pathsep.join([f"{sys.prefix}/bin", str(links), *path])


def test_sanity(run, staged, home, search_path):
    run("ansible-test", "sanity", "--color", "no", cwd=staged, env={"HOME": str(home), "PATH": search_path})
