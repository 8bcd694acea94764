# SPDX-License-Identifier: GPL-3.0-or-later
"""kubernetes.core, which no test environment has installed."""

from __future__ import annotations

import json
import os
import sys
import zipfile
from pathlib import Path

from rehearsal.command import run

PEER = "kubernetes.core"


def peer_collection(cache: Path) -> Path:
    """kubernetes.core out of the newest `ansible` package of PyPI, as a collections path; fetched once.

    It runs on our own ansible-core, Python and kubernetes client, so that nothing but the collections differs.
    """
    path = cache / "collections"
    if not (path / "complete").exists():
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        # what Python the package itself wants doesn't matter: only the collection is taken
        run([*pip, "--ignore-requires-python", f"--dest={cache}", "ansible"])
        wheel = max(cache.glob("ansible-*.whl"), key=os.path.getmtime)
        with zipfile.ZipFile(wheel) as archive:
            wanted = [name for name in archive.namelist() if name.startswith("ansible_collections/kubernetes/core/")]
            archive.extractall(path, wanted)
        (path / "complete").write_text(wheel.name.split("-")[1])
    return path


def peer_versions(path: Path) -> dict[str, str]:
    """Of kubernetes.core and of the package that it came in."""
    manifest = json.loads((path / "ansible_collections/kubernetes/core/MANIFEST.json").read_text())
    return {PEER: manifest["collection_info"]["version"], "from ansible": (path / "complete").read_text()}
