# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""Deploy NIM services behind KServe, stop them, or take them away."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.gpuops.nim.plugins.module_utils._kube.errors import KubeError
from ansible_collections.gpuops.nim.plugins.module_utils._nim import spec
from ansible_collections.gpuops.nim.plugins.module_utils._nim.spec import ServiceSpec
from ansible_collections.gpuops.nim.plugins.module_utils._ops.deploy import Deploy
from ansible_collections.gpuops.nim.plugins.module_utils._ops.remove import Remove
from ansible_collections.gpuops.nim.plugins.module_utils._ops.result import Progress, Result
from ansible_collections.gpuops.nim.plugins.module_utils._ops.services import BadEntry, read_all
from ansible_collections.gpuops.nim.plugins.module_utils._ops.stop import Stop
from ansible_collections.gpuops.nim.plugins.module_utils._ops.task import Service, Task


def run(params: Mapping[str, Any], *, check_mode: bool, diff: bool, progress: Progress) -> Result:
    """Bring the services of a task up or take them away; one that fails does not stop the others.

    :raises OpsError: bad options (nothing was sent), or at the end all that failed; ``data`` tells of every service.
    :raises KubeError: there is no way to the cluster, and nothing was changed.
    """
    if params["state"] == "present":
        services = [
            Service(entry, wanted.namespace, wanted.name, wanted) for entry, wanted in read_all(params, read_spec)
        ]
    else:
        services = [Service(entry, namespace, name) for entry, (namespace, name) in read_all(params, _identity)]
    task = _STATES[params["state"]](params, services, check_mode, diff, progress)
    try:
        return task.run()
    except KubeError as error:
        task.lost(error)
        raise


_STATES: dict[str, type[Task]] = {"present": Deploy, "stopped": Stop, "absent": Remove}


def read_spec(params: Mapping[str, Any]) -> ServiceSpec:
    """For `services.read_all`."""
    try:
        return spec.read(params)
    except spec.BadSpec as error:
        raise BadEntry(list(error.errors)) from None


def _identity(params: Mapping[str, Any]) -> tuple[str, str]:
    try:
        return spec.identity(params)
    except spec.BadSpec as error:
        raise BadEntry(list(error.errors)) from None
