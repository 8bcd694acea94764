# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: Contributors to gpuops.nim

from __future__ import annotations

from ansible_collections.gpuops.nim.plugins.modules.kserve_release import SPEC
from ansible_collections.gpuops.nim.plugins.plugin_utils._local import LocalAction


class ActionModule(LocalAction):
    """Runs kserve_release inside Ansible's own process where it can."""

    spec = SPEC
