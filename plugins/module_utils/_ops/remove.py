# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""Take services away, with what was made for them."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from ansible_collections.gpuops.nim.plugins.module_utils._kube.apply import ensure_absent, ensure_annotation
from ansible_collections.gpuops.nim.plugins.module_utils._kube.errors import (
    KubeError,
    NotFound,
    Unauthorized,
    Unreachable,
)
from ansible_collections.gpuops.nim.plugins.module_utils._nim import extras as nim_extras
from ansible_collections.gpuops.nim.plugins.module_utils._nim import kserve_config, manifests, names
from ansible_collections.gpuops.nim.plugins.module_utils._ops import claims, extras
from ansible_collections.gpuops.nim.plugins.module_utils._ops.result import Result
from ansible_collections.gpuops.nim.plugins.module_utils._ops.task import Service, Task, by_namespace, webhook_down

Object = dict[str, Any]


class Remove(Task):
    def run(self) -> Result:
        for namespace, mine in by_namespace(self.services).items():
            try:
                there = extras.owners(self.client, namespace, nim_extras.KINDS)
            except (Unreachable, Unauthorized):
                raise
            except KubeError as error:
                for service in mine:
                    service.error = str(error)
                continue
            for service in mine:
                try:
                    self._remove(service, there)
                except KubeError as error:
                    service.error = str(error)
                    if isinstance(error, (Unreachable, Unauthorized)) and not webhook_down(error):
                        raise self.failure(str(error)) from None
        self.wait_for_end([service for service in self.services if not service.error and service.isvc])
        for service in self.services:
            if not service.entry.params["keep_cache"] and not service.error:
                try:
                    claims.remove(self, service)
                except KubeError as error:
                    service.error = str(error)
        return self.finish()

    def _remove(self, service: Service, there: extras.Owners) -> None:
        adopt = service.entry.params["adopt"]
        change = service.note(
            ensure_absent(
                self.client,
                manifests.API_VERSION,
                manifests.KIND,
                service.name,
                service.namespace,
                check_mode=self.check_mode,
                adopt=adopt,
            )
        )
        service.isvc_action, service.isvc = change.action, change.before
        if change.changed:
            self.progress(f"[{service}] {change.action}")
        if change.before:
            with suppress(NotFound):
                self._right_word(service, change.before)
        self.remove_extras(service, there)
        if adopt:
            self.tidy_after_arena(service)

    def _right_word(self, service: Service, live: Object) -> None:
        """KServe 0.16 can't end the deletion of a service that somebody made with its old word for the mode."""
        word = kserve_config.right_word(live, names.MODE_ANNOTATION)
        if word and not self.check_mode:
            service.note(ensure_annotation(self.client, live, names.MODE_ANNOTATION, word, adopt=True))
