#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: Contributors to gpuops.nim
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: nim_key_rotation
version_added: 0.1.0
short_description: Another NGC key for all NIM services that use one
description:
  - Finds all that uses the NGC key, verifies the new key for every image in use, writes it into both Secrets of every
    namespace, renews exactly the pods that need it, one service at a time, and proves that nothing uses the old one.
  - A key that is refused for one image changes nothing. A registry that can't be asked is never taken for a bad key;
    nothing is changed then, either, unless O(unverified=true).
  - Where the node has room for a second pod, the old pod serves until the new one answers, and no request is lost.
    Where it has not, the old pod ends first, and the result states for how long the service did not answer.
  - Services are found by what their pods use, whoever made them. Services of NVIDIA's NIM Operator, of KServe's Knative
    mode and on several nodes are named in the result and left alone.
  - Nothing is remembered between runs. A run that was cut off is finished by the next one.
author:
  - Contributors to gpuops.nim (@gpuops)
extends_documentation_fragment:
  - gpuops.nim.auth
  - gpuops.nim.registry
  - gpuops.nim.registry.way
  - gpuops.nim.attributes
  - gpuops.nim.attributes.action_group
options:
  ngc_api_key:
    description:
      - The new key from NVIDIA NGC. White space around it is removed. What can't be a key is refused before anything is
        sent.
      - Taken from the environment variable E(NGC_API_KEY) if not set. One of the two is needed.
    type: str
  namespaces:
    description:
      - Where the key is to be replaced.
      - If not set, in all namespaces that have both Secrets, or a service whose pods name one of them.
    type: list
    elements: str
    aliases: [namespace]
  pull_secret:
    description: Name of the pull secret.
    type: str
    default: ngc-secret
  runtime_secret:
    description: Name of the runtime secret.
    type: str
    default: nvidia-nim-secrets
  adopt:
    description:
      - Take over Secrets that somebody else made, such as those of the one-click service, and remove that service's
        C(arena-client-config-job) Jobs that have ended.
      - Secrets that others have edited by hand to hold the new key are left as they are, with or without it.
    type: bool
    default: false
  unverified:
    description:
      - Go on where it can't be established whether the key is valid, for instance without a way to the registry. A key
        that is refused is never written.
    type: bool
    default: false
  chat:
    description:
      - Ask each service a question before and after its pods are renewed, as M(gpuops.nim.nim_chat) does. With V(false)
        pods that are ready are enough.
    type: bool
    default: true
  ingress_address:
    description:
      - Where the services' ingress listens. If not set, it is read from their Ingresses; where those name none, the
        services are asked through the API server.
    type: str
  wait_timeout:
    description: Seconds in which each service has to be ready again. A large model takes long to load.
    type: int
    default: 3600
  unschedulable_grace:
    description: Seconds that a pod may be without a node before that counts as a failure.
    type: int
    default: 60
attributes:
  check_mode:
    support: full
    details: The registry is asked. The result holds what would be written and renewed, in which order and how.
  diff_mode:
    support: full
    details: Values are replaced by their fingerprints.
  idempotent:
    support: full
notes:
  - A value that equals the old key is replaced wherever it stands in the two Secrets. Other logins and variables in
    them stay.
  - Needs the rights to list, patch and create Secrets, to list InferenceServices, Deployments, ReplicaSets, Pods,
    Events and Nodes, to get Services, and to patch and delete Pods.
seealso:
  - module: gpuops.nim.nim_secret
  - module: gpuops.nim.ngc_key_info
  - module: gpuops.nim.nim_chat
"""

EXAMPLES = r"""
- name: The key from the environment variable NGC_API_KEY, wherever one is used
  gpuops.nim.nim_key_rotation:

- name: What would that do, and how?
  gpuops.nim.nim_key_rotation:
  check_mode: true
  register: plan

- name: One namespace, with secrets that the one-click service made
  gpuops.nim.nim_key_rotation:
    namespace: default
    adopt: true
    ngc_api_key: "{{ vaulted_ngc_api_key }}"
"""

RETURN = r"""
done:
  description: Whether the last look showed that nothing uses another key. In check mode, how it is before the change.
  returned: when the cluster could be asked
  type: bool
  sample: true
verdicts:
  description: What M(gpuops.nim.ngc_key_info) says of the new key, for each image in use.
  returned: when the cluster could be asked
  type: list
  elements: dict
  sample:
    - image: nvcr.io/nim/meta/llama3-8b-instruct:1.0.0
      verdict: valid
      cause: nvcr.io gives this image to this key.
      remedy: ""
      good: true
      refused: false
key:
  description: What NGC itself says about the new key. Null where the registry's word about an image is enough.
  returned: when the cluster could be asked
  type: dict
  sample: null
secrets:
  description: What became of each Secret that was looked at. In check mode, what it would be.
  returned: when the cluster could be asked
  type: list
  elements: dict
  contains:
    namespace:
      description: Where it is.
      type: str
      sample: rotate-a
    name:
      description: Its name.
      type: str
      sample: nvidia-nim-secrets
    kind:
      description: V(pull) or V(runtime).
      type: str
      sample: runtime
    action:
      description: V(created), V(changed) or V(unchanged).
      type: str
      sample: changed
    fingerprint:
      description: That of the key, as M(gpuops.nim.nim_secret) shows it.
      type: str
      sample: a265b0236f67
    fingerprints:
      description: The fingerprint of each variable, or of each registry's password.
      type: dict
      sample: {NGC_API_KEY: a265b0236f67}
services:
  description:
    - The services with pods that had to be renewed, in the order in which that was, or would be, done. Those that had
      failed come first.
  returned: when the cluster could be asked
  type: list
  elements: dict
  contains:
    name:
      description: Its name.
      type: str
      sample: a
    namespace:
      description: Where it is.
      type: str
      sample: rotate-a
    image:
      description: Its image.
      type: str
      sample: nvcr.io/nim/meta/llama3-8b-instruct:1.0.0
    managed_by:
      description: Who looks after it, such as V(gpuops.nim) or V(arena).
      type: str
      sample: gpuops.nim
    action:
      description:
        - V(renewed); V(unchanged) for one that only had to be waited for; V(failed); or V(not_reached), because one
          before it failed. Both of the latter serve on with the old key where they served before.
      type: str
      sample: renewed
    how:
      description:
        - V(surge), the old pod serves until the new one answers. V(in_place), the old pod ends first. V(fresh), its pod
          had failed and served nobody. Null where nothing was renewed.
      type: str
      sample: surge
    why:
      description: The reason for that.
      type: str
      sample: node rehearsal has room for a second pod, so the old one serves until the new one is ready
    pods:
      description: The pods that were to be renewed.
      type: list
      elements: str
      sample: [a-predictor-57985f95f7-gbzft]
    outage_seconds:
      description:
        - For how long it did not answer, from the end of its pod to the first good answer. Null where it did not answer
          before, and where that isn't known yet.
      type: float
      sample: 0.0
    seconds:
      description: How long all of it took.
      type: float
      sample: 11.6
    model:
      description: The model that answered afterwards. Null without O(chat).
      type: str
      sample: meta/llama3-8b-instruct
    findings:
      description: For one that failed, the causes, as M(gpuops.nim.nim_kserve) returns them.
      type: list
      elements: dict
      sample: []
    error:
      description: Why it failed.
      type: str
      sample: ""
namespaces:
  description: What the last look showed in each namespace. In check mode, how it is before the change.
  returned: when the cluster could be asked
  type: list
  elements: dict
  contains:
    namespace:
      description: Its name.
      type: str
      sample: rotate-a
    done:
      description: Whether nothing in it uses another key.
      type: bool
      sample: true
    new_key:
      description: Whether both Secrets hold the new key.
      type: bool
      sample: true
    fingerprint:
      description: That of the key in the runtime secret. Null where the Secret has no salt.
      type: str
      sample: a265b0236f67
    pods_with_old_key:
      description: Pods with a container that started with another key.
      type: list
      elements: str
      sample: []
    pods_unknown:
      description: Pods of which it can't be known, because the Secret does not tell when it was changed.
      type: list
      elements: str
      sample: []
not_handled:
  description: What uses the key and is left alone.
  returned: when the cluster could be asked
  type: list
  elements: dict
  sample:
    - kind: NIMService
      namespace: nim
      name: llama
      why: the NIM Operator runs it
jobs:
  description:
    - The one-click service's Jobs that have ended. Their C(action) is V(deleted), or V(left) without O(adopt).
  returned: when the cluster could be asked
  type: list
  elements: dict
  sample:
    - namespace: default
      name: arena-client-config-job
      ended: failed
      action: deleted
"""

from ansible_collections.gpuops.nim.plugins.module_utils._ansible import ModuleSpec, run_module
from ansible_collections.gpuops.nim.plugins.module_utils._kube.auth import AUTH_ARGUMENTS
from ansible_collections.gpuops.nim.plugins.module_utils._ops import rotate
from ansible_collections.gpuops.nim.plugins.module_utils._ops.key_info import REGISTRY_ARGUMENTS

SPEC = ModuleSpec(
    argument_spec={
        **AUTH_ARGUMENTS,
        **REGISTRY_ARGUMENTS,
        "namespaces": {"type": "list", "elements": "str", "aliases": ["namespace"]},
        "pull_secret": {"type": "str", "default": "ngc-secret", "no_log": False},
        "runtime_secret": {"type": "str", "default": "nvidia-nim-secrets", "no_log": False},
        "adopt": {"type": "bool", "default": False},
        "unverified": {"type": "bool", "default": False},
        "chat": {"type": "bool", "default": True},
        "ingress_address": {"type": "str"},
        "wait_timeout": {"type": "int", "default": 3600},
        "unschedulable_grace": {"type": "int", "default": 60},
    },
    run=rotate.run,
)


def main() -> None:
    run_module(SPEC)


if __name__ == "__main__":
    main()
