# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: Contributors to gpuops.nim

from __future__ import annotations

from ansible_collections.gpuops.nim.plugins.modules.nim_preflight import SPEC
from ansible_collections.gpuops.nim.plugins.plugin_utils._local import LocalAction


class ActionModule(LocalAction):
    """Runs nim_preflight inside Ansible's own process where it can."""

    spec = SPEC
