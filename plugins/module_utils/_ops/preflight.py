# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""Everything that can be known before anything is written: one row for each thing that was looked at."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

from ansible_collections.gpuops.nim.plugins.module_utils._kube.auth import connect
from ansible_collections.gpuops.nim.plugins.module_utils._kube.errors import (
    ConfigError,
    KubeError,
    Unauthorized,
    Unreachable,
)
from ansible_collections.gpuops.nim.plugins.module_utils._ngc.key import clean
from ansible_collections.gpuops.nim.plugins.module_utils._ops import kserve
from ansible_collections.gpuops.nim.plugins.module_utils._ops.checks import (
    admission,
    cluster,
    gpus,
    key,
    limits,
    references,
    rights,
    storage,
)
from ansible_collections.gpuops.nim.plugins.module_utils._ops.checks.rows import (
    FAILURE,
    OK,
    WARNING,
    Row,
    failure,
    ok,
    unseen,
)
from ansible_collections.gpuops.nim.plugins.module_utils._ops.checks.scene import Scene, wanted
from ansible_collections.gpuops.nim.plugins.module_utils._ops.result import OpsError, Progress, Result
from ansible_collections.gpuops.nim.plugins.module_utils._ops.services import read_all

PATIENCE = 5.0  # seconds for a server or webhook that does not answer: a person waits, and nothing is at stake yet

# In the order of the table.
CHECKS: tuple[tuple[str, Callable[[Scene], Iterable[Row]]], ...] = (
    ("rights", rights.check),
    ("kserve", cluster.kserve),
    ("ingress", cluster.ingress),
    ("monitoring", cluster.monitoring),
    ("autoscaling", cluster.autoscaling),
    ("namespace", references.namespaces),
    ("secrets", references.secrets),
    ("references", references.others),
    ("quota", limits.quotas),
    ("limits", limits.ranges),
    ("gpus", gpus.check),
    ("model", gpus.sizes),
    ("image", storage.images),
    ("storage", storage.claims),
    ("pod", admission.pods),
    ("admission", admission.objects),
)


def run(params: Mapping[str, Any], *, check_mode: bool, diff: bool, progress: Progress) -> Result:
    """Look at all of it, write nothing. Check mode is the same.

    :raises OpsError: bad options (nothing was sent), or rows that ``fail_on`` doesn't let pass; ``data`` has all rows.
    :raises BadKey: a key that can't be one; nothing was sent.
    :raises ConfigError: the way to the cluster can't work as it is described.
    """
    services = [wanted(entry, spec) for entry, spec in read_all({**params, "state": "present"}, kserve.read_spec)]
    if params["ngc_api_key"]:
        clean(params["ngc_api_key"])
    scene = Scene(params, services, connect(params, PATIENCE))
    with ThreadPoolExecutor(len(CHECKS) + 1, thread_name_prefix="preflight") as pool:
        keys = pool.submit(lambda: list(key.check(scene)))  # registries need no cluster
        reached = _reach(scene)
        rest: list[Row] = []
        if reached.status == OK:
            rest = [row for rows in pool.map(lambda check: _rows(scene, *check), CHECKS) for row in rows]
        found = [*keys.result(), reached, *rest]
    return _result(found, rights.role(scene) if rest else "", params["fail_on"])


def _reach(scene: Scene) -> Row:
    """Whether the API server answers us at all."""
    server = scene.client.host
    try:
        version = scene.client.server_version()
    except (Unreachable, Unauthorized) as error:
        return failure("cluster", server, error.message, "")
    return ok("cluster", server, f"Kubernetes {version}")


def _rows(scene: Scene, name: str, check: Callable[[Scene], Iterable[Row]]) -> list[Row]:
    """The rows of a check; one that could not look says so, which is no reason to stop."""
    found: list[Row] = []
    try:
        found.extend(check(scene))
    except ConfigError:
        raise
    except KubeError as error:
        found.append(unseen(name, name, error))
    return found


def _result(rows: list[Row], role: str, fail_on: str) -> Result:
    failures = [str(row) for row in rows if row.status == FAILURE]
    warnings = [str(row) for row in rows if row.status == WARNING]
    data = {"rows": [asdict(row) for row in rows], "failures": failures, "role": role}
    stops = failures + (warnings if fail_on == "warning" else []) if fail_on != "never" else []
    if stops:
        raise OpsError("\n".join(stops), data=data, warnings=warnings)
    return Result(False, data, warnings=warnings)
