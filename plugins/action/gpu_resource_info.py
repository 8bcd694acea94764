# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: Contributors to gpuops.nim

from __future__ import annotations

from ansible_collections.gpuops.nim.plugins.modules.gpu_resource_info import SPEC
from ansible_collections.gpuops.nim.plugins.plugin_utils._local import LocalAction


class ActionModule(LocalAction):
    """Runs gpu_resource_info inside Ansible's own process where it can."""

    spec = SPEC
