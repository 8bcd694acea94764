# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""Take the pods of services away and leave everything else, as KServe does at its annotation for it."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from ansible_collections.gpuops.nim.plugins.module_utils._kube.apply import ensure_annotation
from ansible_collections.gpuops.nim.plugins.module_utils._kube.errors import (
    Forbidden,
    KubeError,
    Unauthorized,
    Unreachable,
)
from ansible_collections.gpuops.nim.plugins.module_utils._nim import kserve_config, names
from ansible_collections.gpuops.nim.plugins.module_utils._ops.result import OpsError, Result
from ansible_collections.gpuops.nim.plugins.module_utils._ops.task import Service, Task, by_namespace

Object = dict[str, Any]


class Stop(Task):
    def run(self) -> Result:
        version = self._kserve_version
        if version and version < (0, 16):
            raise OpsError(
                f"state: KServe {version[0]}.{version[1]} can't stop a service in Standard mode, 0.16 and later can. "
                "Remove the service (state: absent keeps the cache) and deploy it again later."
            )
        for namespace, mine in by_namespace(self.services).items():
            live = self.live(namespace)
            for service in mine:
                try:
                    self._stop(service, live.get(service.name))
                except (Unreachable, Unauthorized) as error:
                    service.error = str(error)
                    raise self.failure(str(error)) from None
                except (KubeError, OpsError) as error:
                    service.error = str(error)
        self.wait_for_end([service for service in self.services if not service.error], stopped=True)
        return self.finish()

    def _stop(self, service: Service, live: Object | None) -> None:
        if live is None:
            raise OpsError("name: there is no such service to stop; deploy it first, with state: present")
        adopt = service.entry.params["adopt"]
        change = service.note(
            ensure_annotation(self.client, live, names.STOP_ANNOTATION, "true", check_mode=self.check_mode, adopt=adopt)
        )
        service.isvc, service.isvc_action = live, "stopped" if change.changed else "unchanged"
        if change.changed:
            self.progress(f"[{service}] stopped")

    @cached_property
    def _kserve_version(self) -> tuple[int, int] | None:
        try:
            return kserve_config.version_of(self.controller_image())
        except Forbidden:
            return None
