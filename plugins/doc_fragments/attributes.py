# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: Contributors to gpuops.nim
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations


class ModuleDocFragment:
    """What our modules can do; each states its own support."""

    DOCUMENTATION = r"""
options: {}
attributes:
  check_mode:
    description: Can run in C(check_mode) and return the changed status prediction without modifying the target.
  diff_mode:
    description: Will return details on what has changed, or possibly needs changing in C(check_mode).
  idempotent:
    description: When run twice in a row outside check mode with the same arguments, the second run reports no change.
"""

    ACTION_GROUP = r"""
options: {}
attributes:
  action_group:
    description: Use C(group/gpuops.nim.nim) in C(module_defaults) to set defaults for this module.
    support: full
    membership:
      - gpuops.nim.nim
"""
