#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: Contributors to gpuops.nim
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: nim_preflight
version_added: 0.1.0
short_description: Everything that can be known before NIM services are deployed
description:
  - Takes the services as M(gpuops.nim.nim_kserve) takes them, and says what would keep them from coming up. The key for
    every image, the rights of this user, KServe, GPUs, disks, claims, limits, and all that the services name. All
    objects go through a dry run of the API server, its webhooks included.
  - Each thing that was looked at is a row with its status, V(ok), V(warning) or V(failure), and the remedy. A failure
    is established. What can't be looked at, for lack of a right or of a way there, is a warning and stops nothing.
  - Nothing is written, in check mode or out of it. The dry runs and the questions about rights are requests that the
    API server forgets.
  - The checks are listed in C(docs/preflight.md) of the collection.
author:
  - Contributors to gpuops.nim (@gpuops)
extends_documentation_fragment:
  - gpuops.nim.auth
  - gpuops.nim.attributes
  - gpuops.nim.attributes.action_group
  - gpuops.nim.registry
  - gpuops.nim.registry.way
  - gpuops.nim.service
options:
  services:
    description:
      - Several services, each a dictionary of the options of one, laid over those at the top level. They are judged
        together, since they share GPUs and quotas.
    type: list
    elements: dict
  kserve_namespace:
    description: The namespace of KServe's controller, where its ConfigMap is.
    type: str
    default: kserve
  own_secrets:
    description:
      - Secrets that M(gpuops.nim.nim_secret) writes after this, in every namespace. That they are missing is no
        failure; that they are somebody else's is.
      - With an empty list all Secrets that the services name must be there already.
    type: list
    elements: str
    default: [ngc-secret, nvidia-nim-secrets]
  fail_on:
    description:
      - Which rows make the task fail. With V(warning) failures do, too. The result has all rows in any case.
    type: str
    choices: [failure, warning, never]
    default: failure
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
  idempotent:
    support: full
seealso:
  - module: gpuops.nim.nim_kserve
  - module: gpuops.nim.ngc_key_info
"""

EXAMPLES = r"""
- name: May this service come?
  gpuops.nim.nim_preflight:
    name: llama3-8b-instruct
    image: nvcr.io/nim/meta/llama3-8b-instruct:1.0.0
    cache: {claim: nim-model, size: 50Gi}

- name: Look at all, and go on whatever is found
  gpuops.nim.nim_preflight:
    namespace: nim
    services: "{{ my_services }}"
    fail_on: never
  register: preflight

- name: The rights that are missing, for an administrator
  ansible.builtin.copy:
    content: "{{ preflight.role }}"
    dest: role.yml
    mode: "0644"
  when: preflight.role | length > 0
"""

RETURN = r"""
rows:
  description: What was looked at, in the order of C(docs/preflight.md).
  returned: always, unless options were refused
  type: list
  elements: dict
  contains:
    check:
      description: Name of the check.
      type: str
      sample: gpus
    subject:
      description: What it looked at.
      type: str
      sample: default/llama3-8b-instruct
    status:
      description: V(ok), V(warning) or V(failure).
      type: str
      sample: failure
    said:
      description: What is so.
      type: str
      sample: >-
        it finds no room (1 nvidia.com/gpu, cpu 100m, memory 256Mi): rehearsal has 0 of 4 nvidia.com/gpu left; held by
        nim/mistral-predictor-5c879d8cfc-xs4nh and nim/embed-predictor-55d6659c98-px6s6
    remedy:
      description: What to do. Empty where nothing is to be done.
      type: str
      sample: >-
        Stop what is not needed (nim_kserve with state: stopped), ask for fewer replicas, or add a node.
failures:
  description: The rows with the status V(failure), one text each.
  returned: always, unless options were refused
  type: list
  elements: str
  sample: []
role:
  description:
    - Roles and bindings as YAML, ready for C(kubectl apply -f), for each namespace in which this user lacks a right.
      Empty if none is missing.
  returned: always, unless options were refused
  type: str
  sample: ""
"""

from ansible_collections.gpuops.nim.plugins.module_utils._ansible import ModuleSpec, run_module
from ansible_collections.gpuops.nim.plugins.module_utils._kube.auth import AUTH_ARGUMENTS
from ansible_collections.gpuops.nim.plugins.module_utils._ops import preflight
from ansible_collections.gpuops.nim.plugins.module_utils._ops.key_info import REGISTRY_ARGUMENTS
from ansible_collections.gpuops.nim.plugins.module_utils._ops.services import SERVICE_ARGUMENTS

SPEC = ModuleSpec(
    argument_spec={
        **AUTH_ARGUMENTS,
        **REGISTRY_ARGUMENTS,
        **SERVICE_ARGUMENTS,
        "services": {"type": "list", "elements": "dict"},
        "kserve_namespace": {"type": "str", "default": "kserve"},
        "own_secrets": {
            "type": "list",
            "elements": "str",
            "default": ["ngc-secret", "nvidia-nim-secrets"],
            "no_log": False,
        },
        "fail_on": {"type": "str", "choices": ["failure", "warning", "never"], "default": "failure"},
    },
    run=preflight.run,
)


def main() -> None:
    run_module(SPEC)


if __name__ == "__main__":
    main()
