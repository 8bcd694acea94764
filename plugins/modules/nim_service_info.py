#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: Contributors to gpuops.nim
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: nim_service_info
version_added: 0.1.0
short_description: Where NIM services are, and why one does not answer
description:
  - Looks once at the NIM services of a namespace, of several, or of the whole cluster, and returns for each its state,
    the timeline of its pods, and findings. A finding is a named cause, with what was seen and what to do about it.
  - Finds services whoever made them, with M(gpuops.nim.nim_kserve), arena, C(kubectl) or Helm, and NIMServices of
    NVIDIA's NIM Operator.
  - Changes nothing. A service that is well has no findings.
  - A namespace costs the same few requests whatever the number of its services. Only for services that are not well
    more is read, such as nodes, claims and the logs of containers that ended.
author:
  - Contributors to gpuops.nim (@gpuops)
extends_documentation_fragment:
  - gpuops.nim.auth
  - gpuops.nim.registry.way
  - gpuops.nim.attributes
  - gpuops.nim.attributes.action_group
options:
  namespaces:
    description:
      - Where to look. Empty for all namespaces, which needs the right to list services in all of them.
    type: list
    elements: str
    aliases: [namespace]
    default: []
  services:
    description:
      - Look at these only, each as C(NAME) or C(NAMESPACE/NAME). One that is not there is reported with the state
        V(absent).
      - If not set, all services that run a NIM. That is seen by the image, by variables such as E(NGC_API_KEY), or by
        the format of the serving runtime.
    type: list
    elements: str
    aliases: [name]
    default: []
  check_key:
    description:
      - Read the pull secret of each service, and ask its registry what the key in it is good for.
      - The key is used for that and nothing else. No form of it is returned.
    type: bool
    default: false
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
  idempotent:
    support: full
    details: Nothing is changed.
seealso:
  - module: gpuops.nim.nim_kserve
  - module: gpuops.nim.nim_chat
  - module: gpuops.nim.ngc_key_info
"""

EXAMPLES = r"""
- name: Look at one service
  gpuops.nim.nim_service_info:
    name: llama3-8b-instruct
    namespace: nim
  register: look

- name: Say what is wrong with it
  ansible.builtin.debug:
    msg: "{{ item.cause }} What to do: {{ item.remedy }}"
  loop: "{{ look.services[0].findings }}"

- name: Look at everything in the cluster, and ask whether the keys are still good
  gpuops.nim.nim_service_info:
    check_key: true
"""

RETURN = r"""
services:
  description: The services, by namespace and name.
  returned: success
  type: list
  elements: dict
  contains:
    namespace:
      description: Its namespace.
      type: str
      sample: nim
    name:
      description: Its name.
      type: str
      sample: llama3-8b-instruct
    kind:
      description: C(InferenceService), or C(NIMService) for one of the NIM Operator. Empty where there is none.
      type: str
      sample: InferenceService
    managed_by:
      description: Who looks after it, such as C(gpuops.nim), C(arena) or C(NIM Operator).
      type: str
      sample: gpuops.nim
    state:
      description:
        - One of V(absent), V(stopped), V(scheduling), V(pulling), V(starting), V(loading), V(ready) and V(failed).
        - V(ending) while it is being deleted, and V(unknown) where its pods may not be read.
      type: str
      sample: ready
    detail:
      description: The state in a sentence.
      type: str
      sample: 1 of 1 pods are ready
    ready:
      description: Whether the newest specification is up.
      type: bool
      sample: true
    image:
      description: The image that it asks for.
      type: str
      sample: nvcr.io/nim/meta/llama3-8b-instruct:1.0.0
    replicas:
      description: How many pods are C(wanted) and how many are C(ready).
      type: dict
      sample: {wanted: 1, ready: 1}
    revision:
      description: The revision of the Deployment that is rolled out.
      type: str
      sample: "1"
    url:
      description: Its URL as KServe or the NIM Operator gives it.
      type: str
      sample: http://llama3-8b-instruct-nim.example.com
    address:
      description: Where the ingress controller listens.
      type: str
      sample: 203.0.113.7
    worst:
      description: The weightiest of its findings, V(error), V(warning) or V(none).
      type: str
      sample: none
    verdict:
      description:
        - What its registry says of its key, for its image. C(verdict) is a word of M(gpuops.nim.ngc_key_info), beside
          its C(cause), C(remedy) and C(evidence).
        - Null without O(check_key), and where the secret may not be read.
      type: dict
      sample:
        verdict: invalid
        cause: "nvcr.io refuses this key (401), and NGC does not know it: it is wrong, expired or revoked."
        remedy: "make a new key at https://org.ngc.nvidia.com/setup/api-keys"
        evidence: []
    findings:
      description: What is wrong, the weightiest first.
      type: list
      elements: dict
      contains:
        id:
          description: The rule that found it.
          type: str
          sample: image-pull-refused
        variant:
          description: The case in it.
          type: str
          sample: key
        severity:
          description: V(error) or V(warning).
          type: str
          sample: error
        cause:
          description: What is wrong.
          type: str
          sample: "the registry refuses the key: it is wrong, expired or revoked (401)."
        evidence:
          description: What was seen, in the words of the cluster, without secrets.
          type: list
          elements: str
          sample:
            - >-
              failed to authorize: failed to fetch oauth token: unexpected status from GET request to
              https://nvcr.io/proxy_auth: 401 Unauthorized
        remedy:
          description: What to do.
          type: str
          sample: >-
            renew it with `ansible-playbook gpuops.nim.rotate_key -e @key.yml`, which writes both secrets and renews the
            pods that need it
        confidence:
          description: How sure it is, V(certain), V(likely) or V(possible).
          type: str
          sample: certain
        heals:
          description: Whether it may pass by itself.
          type: bool
          sample: false
        docs:
          description: Where to read more.
          type: str
          sample: https://github.com/gpuops/gpuops.nim/blob/main/docs/findings.md#image-pull-refused-key
    timeline:
      description: One entry for each pod, those of the newest revision first.
      type: list
      elements: dict
      contains:
        pod:
          description: Its name. Empty where no pod could be made.
          type: str
          sample: llama3-8b-instruct-predictor-6b9c8f5d7-x2x4k
        node:
          description: Its node.
          type: str
          sample: gpu-1
        revision:
          description: Its revision.
          type: str
          sample: "1"
        current:
          description: Whether that is the newest.
          type: bool
          sample: true
        stopped_at:
          description: The step in which it is stuck. Empty if it is in none.
          type: str
          sample: ""
        restart_count:
          description: How often the container was started again.
          type: int
          sample: 0
        steps:
          description: >-
            What it went through, of V(creating), V(scheduling), V(preparing), V(pulling), V(starting), V(restarting),
            V(loading), V(ready), V(unready) and V(ending).
          type: list
          elements: dict
          sample:
            - step: loading
              began: "2026-11-25T01:48:38Z"
              ended: "2026-11-25T01:48:41Z"
              seconds: 3.0
              outcome: done
              said: ""
        restarts:
          description: Ends of the container whose time is known.
          type: list
          elements: dict
          sample: [{at: "2026-11-25T01:49:02Z", exit_code: 1, reason: Error}]
worst:
  description: The weightiest of all findings, V(error), V(warning) or V(none).
  returned: success
  type: str
  sample: none
counts:
  description: How many services there are in each state.
  returned: success
  type: dict
  sample: {ready: 1}
not_looked_at:
  description: What could not be read, for instance for want of a right. The findings are made without it.
  returned: success
  type: list
  elements: str
  sample: ["Node objects: no right to list them"]
looked_at:
  description: When.
  returned: success
  type: str
  sample: "2026-11-25T01:56:30Z"
seconds:
  description: How long the look took.
  returned: success
  type: float
  sample: 0.06
"""

from ansible_collections.gpuops.nim.plugins.module_utils._ansible import ModuleSpec, run_module
from ansible_collections.gpuops.nim.plugins.module_utils._kube.auth import AUTH_ARGUMENTS
from ansible_collections.gpuops.nim.plugins.module_utils._ops import inspect
from ansible_collections.gpuops.nim.plugins.module_utils._ops.pull_key import WAY_ARGUMENTS

SPEC = ModuleSpec(
    argument_spec={
        **AUTH_ARGUMENTS,
        "namespaces": {"type": "list", "elements": "str", "aliases": ["namespace"], "default": []},
        "services": {"type": "list", "elements": "str", "aliases": ["name"], "default": []},
        "check_key": {"type": "bool", "default": False, "no_log": False},
        **WAY_ARGUMENTS,
    },
    run=inspect.run,
)


def main() -> None:
    run_module(SPEC)


if __name__ == "__main__":
    main()
