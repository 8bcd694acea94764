#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: Contributors to gpuops.nim
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: gpu_resource_info
version_added: 0.1.0
short_description: Who offers GPUs to a cluster, and how many each node offers
description:
  - Finds what offers GPUs to Kubernetes - NVIDIA's GPU Operator, Alibaba Cloud's own plugin, NVIDIA's DRA driver, a
    device plugin of this collection or of somebody else - for there must never be two on a node.
  - Finds who runs a DCGM exporter for their metrics, of which there should be one, too.
  - Waits, if asked to, until each node offers as many as expected, and names node and reason where one doesn't.
author:
  - Contributors to gpuops.nim (@gpuops)
extends_documentation_fragment:
  - gpuops.nim.auth
  - gpuops.nim.attributes
  - gpuops.nim.attributes.action_group
options:
  resource:
    description: The resource that is looked at.
    type: str
    default: nvidia.com/gpu
  expected:
    description:
      - How many each node should have allocatable, by the node's name. A node that is not named only has to offer some,
        and all of them healthy, if it has a pod of the plugin.
    type: dict
    default: {}
  plugin_namespace:
    description: Namespace of O(plugin_name).
    type: str
  plugin_name:
    description:
      - The plugin's DaemonSet. It has to be up, as it is written now, on each node that is expected to offer GPUs, and
        its pods are looked at for a reason.
    type: str
  wait_timeout:
    description: Seconds until the nodes have to be as expected; 0 looks once, and does not fail.
    type: int
    default: 0
attributes:
  check_mode:
    support: full
    details: Does not wait.
  diff_mode:
    support: none
  idempotent:
    support: full
seealso:
  - module: gpuops.nim.kube_apply
"""

EXAMPLES = r"""
- name: Who offers GPUs here?
  gpuops.nim.gpu_resource_info:
  register: found

- name: Wait for eight on each node
  gpuops.nim.gpu_resource_info:
    expected: {gpu-1: 8, gpu-2: 8}
    plugin_namespace: nvidia-device-plugin
    plugin_name: nvidia-device-plugin
    wait_timeout: 300
"""

RETURN = r"""
owner:
  description: Who offers GPUs; null when nobody does.
  returned: always
  type: dict
  contains:
    name:
      description: V(gpuops.nim), V(gpu_operator), V(ack), V(dra) or V(other).
      type: str
      sample: gpu_operator
    evidence:
      description: By what that is seen.
      type: str
      sample: ClusterPolicy cluster-policy
    namespace:
      description: Of the plugin's DaemonSet, if it is seen by one.
      type: str
      sample: nvidia-device-plugin
    release:
      description: Of Helm, if the DaemonSet came with one.
      type: str
      sample: nvidia-device-plugin
exporter:
  description: Who exports the GPUs' metrics by DCGM; null when nobody does.
  returned: always
  type: dict
  contains:
    name:
      description: V(gpuops.nim), V(gpu_operator), V(ack) or V(other).
      type: str
      sample: gpu_operator
    evidence:
      description: By what that is seen.
      type: str
      sample: DaemonSet gpu-operator/nvidia-dcgm-exporter
    nodes:
      description: How many nodes it is meant to run on, by the cluster's own count.
      type: int
      sample: 2
nodes:
  description: The nodes that offer GPUs, have the plugin, or are expected to have GPUs.
  returned: always
  type: list
  elements: dict
  contains:
    name:
      description: The node.
      type: str
      sample: gpu-1
    capacity:
      description: How many it has, healthy or not.
      type: int
      sample: 8
    allocatable:
      description: How many pods can be given.
      type: int
      sample: 8
    expected:
      description: How many it should have; null where nothing was said.
      type: int
      sample: 8
    reason:
      description: What is wrong, and why as far as it is seen. Empty where all is well.
      type: str
      sample: 7 nvidia.com/gpu allocatable, 8 expected; 1 of 8 are unhealthy; a GPU of the node is broken (see its Xid)
runtime_classes:
  description: The cluster's RuntimeClasses.
  returned: always
  type: list
  elements: dict
  contains:
    name:
      description: The name that pods use.
      type: str
      sample: nvidia
    handler:
      description: The name that the node's container runtime knows it by.
      type: str
      sample: nvidia
    managed:
      description: Whether this collection made it.
      type: bool
      sample: true
node_feature_discovery:
  description: Whether the cluster has Node Feature Discovery, through which GPU Feature Discovery labels nodes.
  returned: always
  type: bool
  sample: false
service_monitors:
  description: Whether the cluster knows the Prometheus operator's kind ServiceMonitor.
  returned: always
  type: bool
  sample: false
"""

from ansible_collections.gpuops.nim.plugins.module_utils._ansible import ModuleSpec, run_module
from ansible_collections.gpuops.nim.plugins.module_utils._kube.auth import AUTH_ARGUMENTS
from ansible_collections.gpuops.nim.plugins.module_utils._ops import gpu_resource

SPEC = ModuleSpec(
    argument_spec={
        **AUTH_ARGUMENTS,
        "resource": {"type": "str", "default": "nvidia.com/gpu"},
        "expected": {"type": "dict", "default": {}},
        "plugin_namespace": {"type": "str"},
        "plugin_name": {"type": "str"},
        "wait_timeout": {"type": "int", "default": 0},
    },
    run=gpu_resource.run,
    rules={"required_together": [("plugin_namespace", "plugin_name")]},
)


def main() -> None:
    run_module(SPEC)


if __name__ == "__main__":
    main()
