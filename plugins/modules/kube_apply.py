#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: Contributors to gpuops.nim
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: kube_apply
version_added: 0.1.0
short_description: Kubernetes objects by server-side apply, many in one task
description:
  - Makes objects of any kind be as their manifests say, or removes them.
  - Namespaces come first, then custom resource definitions, until the API server knows their kinds, then the rest in
    the order given. Removal goes the other way round.
  - Fields that a manifest leaves out stay as they are, unless an earlier run of this module had set them.
  - A run that changes nothing writes nothing. What others made is refused, naming the owner, unless O(adopt=true).
    A Namespace of which nothing but the name is said only has to be there.
author:
  - Contributors to gpuops.nim (@gpuops)
extends_documentation_fragment:
  - gpuops.nim.auth
  - gpuops.nim.attributes
  - gpuops.nim.attributes.action_group
options:
  objects:
    description:
      - The objects, as Kubernetes' API takes them. An object of a kind that lives in namespaces has to name its own.
      - C(status) and C(metadata.creationTimestamp) are left out; generated manifests often have them.
    type: list
    elements: dict
    required: true
  state:
    description:
      - With V(absent) the objects are removed; of their manifests only the names count then.
    type: str
    choices: [present, absent]
    default: present
  adopt:
    description:
      - Take over, or with O(state=absent) remove, objects that somebody else made.
    type: bool
    default: false
  wait:
    description:
      - Wait until the Deployments and DaemonSets among the objects are up as they are written now, or with
        O(state=absent) until all objects are gone.
      - Custom resource definitions are waited for in any case.
    type: bool
    default: false
  wait_timeout:
    description:
      - Seconds to wait with O(wait=true). A Deployment whose controller gives up ends it earlier.
    type: int
    default: 300
  delete_custom_objects:
    description:
      - With O(state=absent), remove custom resource definitions even while there are objects of their kind, and these
        with them. Without it the task is refused before anything is removed, naming the objects.
    type: bool
    default: false
attributes:
  check_mode:
    support: full
    details:
      - The API server itself is asked, by a dry run. Where the same run would first make the namespace or the kind,
        an object is shown as its manifest, with a warning.
  diff_mode:
    support: full
    details: Values of Secrets are never shown.
  idempotent:
    support: full
seealso:
  - module: gpuops.nim.nim_kserve
"""

EXAMPLES = r"""
- name: What a file holds
  gpuops.nim.kube_apply:
    objects: "{{ lookup('ansible.builtin.file', 'manifests.yaml') | from_yaml_all | select | list }}"
    wait: true

- name: One object
  gpuops.nim.kube_apply:
    objects:
      - apiVersion: node.k8s.io/v1
        kind: RuntimeClass
        metadata:
          name: nvidia
        handler: nvidia
"""

RETURN = r"""
objects:
  description: What became of each object, in the order in which it was done.
  returned: always, unless nothing was sent
  type: list
  elements: dict
  contains:
    kind:
      description: Its kind.
      type: str
      sample: DaemonSet
    name:
      description: Its name.
      type: str
      sample: nvidia-device-plugin
    namespace:
      description: Where it is; null for kinds that live in no namespace.
      type: str
      sample: nvidia-device-plugin
    action:
      description: V(created), V(changed), V(unchanged), V(deleted) or V(absent). In check mode, what it would be.
      type: str
      sample: unchanged
"""

from ansible_collections.gpuops.nim.plugins.module_utils._ansible import ModuleSpec, run_module
from ansible_collections.gpuops.nim.plugins.module_utils._kube.auth import AUTH_ARGUMENTS
from ansible_collections.gpuops.nim.plugins.module_utils._ops import batch

SPEC = ModuleSpec(
    argument_spec={
        **AUTH_ARGUMENTS,
        "objects": {"type": "list", "elements": "dict", "required": True},
        "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        "adopt": {"type": "bool", "default": False},
        "wait": {"type": "bool", "default": False},
        "wait_timeout": {"type": "int", "default": 300},
        "delete_custom_objects": {"type": "bool", "default": False},
    },
    run=batch.run,
)


def main() -> None:
    run_module(SPEC)


if __name__ == "__main__":
    main()
