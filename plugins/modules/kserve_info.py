#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: Contributors to gpuops.nim
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: kserve_info
version_added: 0.1.0
short_description: The KServe of a cluster, and what depends on it
description:
  - Tells whether there is a KServe, of which release, in which mode, and who installed it.
author:
  - Contributors to gpuops.nim (@gpuops)
extends_documentation_fragment:
  - gpuops.nim.auth
  - gpuops.nim.attributes
  - gpuops.nim.attributes.action_group
options: {}
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
  idempotent:
    support: full
seealso:
  - module: gpuops.nim.kserve_release
"""

EXAMPLES = r"""
- name: Is there a KServe?
  gpuops.nim.kserve_info:
  register: found

- name: Its release
  ansible.builtin.debug:
    var: found.kserve.version
"""

RETURN = r"""
kserve:
  description: What there is.
  returned: success
  type: dict
  contains:
    installed:
      description: Whether there is a KServe.
      type: bool
      sample: true
    managed:
      description: Whether this collection installed it.
      type: bool
      sample: true
    version:
      description: Its release; null where its controller is outside the cluster or its image's tag doesn't say.
      type: str
      sample: 0.20.0
    mode:
      description: How services are deployed that name no mode, V(Standard) or V(Knative), whatever KServe's older word.
      type: str
      sample: Standard
    namespace:
      description: Where its controller is.
      type: str
      sample: kserve
    available:
      description: Whether its controller runs. One outside the cluster is taken to do so.
      type: bool
      sample: true
    inference_services:
      description: All InferenceServices, as namespace/name.
      type: list
      elements: str
      sample: [nim/llama3-8b-instruct]
"""

from ansible_collections.gpuops.nim.plugins.module_utils._ansible import ModuleSpec, run_module
from ansible_collections.gpuops.nim.plugins.module_utils._kube.auth import AUTH_ARGUMENTS
from ansible_collections.gpuops.nim.plugins.module_utils._ops import kserve_release

SPEC = ModuleSpec(argument_spec={**AUTH_ARGUMENTS}, run=kserve_release.info)


def main() -> None:
    run_module(SPEC)


if __name__ == "__main__":
    main()
