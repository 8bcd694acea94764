# SPDX-License-Identifier: GPL-3.0-or-later
"""The result as JSON and as a table."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import statistics
from pathlib import Path
from typing import Any

import psutil
import yaml

from rehearsal import cluster, toolchain
from rehearsal.layout import Layout
from tests.peer import peer_versions

from .contenders import AGENTS, OURS, ROOT
from .scenarios import Samples

Json = dict[str, Any]


def machine() -> Json:
    """No names and no paths."""
    release = platform.freedesktop_os_release()
    return {
        "system": f"{release['NAME']} {release.get('VERSION_ID', '')}, Linux {platform.release().split('-')[0]}",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory GiB": round(psutil.virtual_memory().total / 2**30),
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())


def versions(layout: Layout, peer: Path) -> Json:
    server = cluster.kubectl(layout, toolchain.ready(layout), "version", "--output=yaml")
    kubernetes = yaml.safe_load(server)
    return {
        OURS: yaml.safe_load((ROOT / "galaxy.yml").read_text())["version"],
        **peer_versions(peer),
        "kubectl": kubernetes["clientVersion"]["gitVersion"],
        "Kubernetes": kubernetes["serverVersion"]["gitVersion"],
        "KServe": cluster.kserve_release(layout),
        "ansible-core": importlib.metadata.version("ansible-core"),
        "Python": platform.python_version(),
        "kubernetes client": importlib.metadata.version("kubernetes"),
    }


def rows(samples: Samples) -> Json:
    """Row to contender to its median (or its one word) and all its samples."""
    found: Json = {}
    for (row, name), values in samples.values.items():
        number = not isinstance(values[0], (str, bool))
        middle = statistics.median(values) if number else values[0]
        found.setdefault(row, {})[name] = {"median": middle, "samples": values}
    return found


def table(result: Json) -> str:
    """Markdown; beside a peer's number, how many times ours it is."""
    lines = [f"| | {' | '.join(AGENTS)} |", "|---|" + "---|" * len(AGENTS)]
    # how long it takes comes first, what the answers are worth last
    rows = sorted(result["rows"].items(), key=lambda row: not row[0][0].isdigit())
    for row, cells in rows:
        ours = cells[OURS]["median"]
        shown = [_cell(cells[name]["median"], ours, name, row) if name in cells else "" for name in AGENTS]
        lines.append(f"| {row} | {' | '.join(shown)} |")
    about = [
        ", ".join(f"{name} {value}" for name, value in result["versions"].items()),
        ", ".join(f"{name}: {value}" for name, value in result["machine"].items()),
        f"load of the machine at the begin {result['load'][0]:.1f}, at the end {result['load'][1]:.1f}; "
        + ", ".join(f"{name}: {value}" for name, value in result["settings"].items()),
    ]
    return "\n".join([*lines, "", *(f"- {line}" for line in about), ""])


def _cell(value: Any, ours: Any, name: str, row: str) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str) or "exit status" in row:
        return str(value)
    text = f"{value:.2f}" if "seconds" in row else f"{value:.0f}"
    return text if name == OURS or not ours or value <= 0 or ours <= 0 else f"{text} ({value / ours:.1f}x)"
