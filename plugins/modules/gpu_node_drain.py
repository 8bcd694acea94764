#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: Contributors to gpuops.nim
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: gpu_node_drain
version_added: 0.1.0
short_description: Frees a node of the pods that use its GPUs, and gives it back
description:
  - Says which pods use GPUs on a node and, only if told to, cordons the node and evicts them through the API's
    evictions, which respect every PodDisruptionBudget. Then waits until they are gone.
  - It marks a node that it cordons. Only such a node is uncordoned again, so one that somebody else took out of service
    stays out.
  - A run that was cut short is resumed by the next one.
  - A pod uses GPUs if it asks for an extended resource such as C(nvidia.com/gpu) or C(aliyun.com/gpu-mem), or has
    claims to devices.
author:
  - Contributors to gpuops.nim (@gpuops)
extends_documentation_fragment:
  - gpuops.nim.auth
  - gpuops.nim.attributes
  - gpuops.nim.attributes.action_group
options:
  node:
    description:
      - Name of the node. One that does not exist is no error, RV(exists) tells; a host may not have joined yet.
    type: str
    required: true
  state:
    description:
      - V(drained) frees the node of pods, if O(drain) allows it.
      - V(restored) uncordons it, if this module cordoned it, once it is ready and offers the GPUs that it offered when
        it was cordoned.
    type: str
    choices: [drained, restored]
    default: drained
  drain:
    description:
      - Whether pods may be disturbed. Without it nothing is touched, and RV(gpu_pods) names those that would have to
        go.
    type: bool
    default: false
  pods:
    description:
      - Which pods have to go. V(gpu) are those that use GPUs, which is enough for a driver or a container runtime's
        configuration.
      - V(all) are all, as before a reboot; those of DaemonSets and static ones stay, as with C(kubectl drain).
    type: str
    choices: [gpu, all]
    default: gpu
  force:
    description:
      - Evict pods that have no controller, too. Nothing starts them again. Without it they are refused, by name.
    type: bool
    default: false
  timeout:
    description:
      - Seconds until the pods have to be gone. Budgets are asked again until then. A pod may take its
        C(terminationGracePeriodSeconds) to end.
      - With O(state=restored), seconds until the node has to be as it was.
    type: int
    default: 600
  wait:
    description: Whether O(state=restored) waits. Without it the node is given back as it is.
    type: bool
    default: true
  boot_id:
    description:
      - What C(/proc/sys/kernel/random/boot_id) of the host says now. With it O(state=restored) trusts nothing that the
        node reported before the host was booted.
    type: str
    default: ""
attributes:
  check_mode:
    support: full
    details: Can't tell whether a budget would refuse, and does not wait for the node.
  diff_mode:
    support: full
  idempotent:
    support: full
notes:
  - The login needs C(get), C(list), C(watch) and C(patch) of nodes, C(list) and C(watch) of pods and C(create) of
    C(pods/eviction).
  - Data in an C(emptyDir) of an evicted pod is lost, as always when it ends.
seealso:
  - module: gpuops.nim.gpu_host_info
"""

EXAMPLES = r"""
- name: Who uses the GPUs of this node?
  gpuops.nim.gpu_node_drain:
    node: gpu-1
  register: node

- name: Free it
  gpuops.nim.gpu_node_drain:
    node: gpu-1
    drain: true
    timeout: 900

- name: Give it back
  gpuops.nim.gpu_node_drain:
    node: gpu-1
    state: restored
"""

RETURN = r"""
node:
  description: Its name.
  returned: always
  type: str
  sample: gpu-1
exists:
  description: Whether the cluster has such a node.
  returned: always
  type: bool
  sample: true
cordoned:
  description: Whether it takes no new pods now. In check mode, what it would be.
  returned: always
  type: bool
  sample: true
cordoned_by_us:
  description: Whether this module cordoned it, so that O(state=restored) would uncordon it.
  returned: always
  type: bool
  sample: true
gpu_pods:
  description: The pods that used GPUs there when the task began, as namespace/name.
  returned: always
  type: list
  elements: str
  sample: [nim/llama3-8b-instruct-predictor-7d9c5-x2x8k]
evicted:
  description: The pods that were evicted. In check mode, those that would be.
  returned: always
  type: list
  elements: str
  sample: [nim/llama3-8b-instruct-predictor-7d9c5-x2x8k]
remaining:
  description: The pods that still use GPUs there.
  returned: always
  type: list
  elements: str
  sample: []
"""

from ansible_collections.gpuops.nim.plugins.module_utils._ansible import ModuleSpec, run_module
from ansible_collections.gpuops.nim.plugins.module_utils._kube.auth import AUTH_ARGUMENTS
from ansible_collections.gpuops.nim.plugins.module_utils._ops import drain

SPEC = ModuleSpec(
    argument_spec={
        **AUTH_ARGUMENTS,
        "node": {"type": "str", "required": True},
        "state": {"type": "str", "choices": ["drained", "restored"], "default": "drained"},
        "drain": {"type": "bool", "default": False},
        "pods": {"type": "str", "choices": ["gpu", "all"], "default": "gpu"},
        "force": {"type": "bool", "default": False},
        "timeout": {"type": "int", "default": 600},
        "wait": {"type": "bool", "default": True},
        "boot_id": {"type": "str", "default": ""},
    },
    run=drain.run,
)


def main() -> None:
    run_module(SPEC)


if __name__ == "__main__":
    main()
