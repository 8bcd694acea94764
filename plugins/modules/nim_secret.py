#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: Contributors to gpuops.nim
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: nim_secret
version_added: 0.1.0
short_description: The pull secret and the runtime secret of NVIDIA NIM
description:
  - Makes, changes or removes the two Secrets that a NIM needs in its namespace, in one or several namespaces at once.
  - The pull secret (C(kubernetes.io/dockerconfigjson)) lets the kubelet pull the image from nvcr.io or a mirror of it.
    The runtime secret holds the variable E(NGC_API_KEY), and E(HF_TOKEN) if given, for the container.
  - Neither a result nor a diff ever holds a value. A fingerprint tells keys apart. It is made with a random salt, kept
    in an annotation of the Secret.
  - A running container keeps the key it started with. The result names the pods that still have the old one.
author:
  - Contributors to gpuops.nim (@gpuops)
extends_documentation_fragment:
  - gpuops.nim.auth
  - gpuops.nim.attributes
  - gpuops.nim.attributes.action_group
options:
  state:
    description:
      - With V(absent) both Secrets are removed. Secrets that others made are refused then, too.
    type: str
    choices: [present, absent]
    default: present
  namespaces:
    description:
      - Where the Secrets go.
      - If one namespace fails, the others are done nevertheless, and the task fails at its end.
    type: list
    elements: str
    aliases: [namespace]
    default: [default]
  create_namespace:
    description:
      - Make a namespace that does not exist. One that exists is left as it is.
    type: bool
    default: false
  ngc_api_key:
    description:
      - The key from NVIDIA NGC. White space around it is removed. A missing key, or only a placeholder, is refused
        before anything is sent.
      - Taken from the environment variable E(NGC_API_KEY) if not set. Needed for O(state=present).
    type: str
  hf_token:
    description:
      - A token of Hugging Face, for models whose files come from there.
      - Taken from the environment variable E(HF_TOKEN) if not set.
    type: str
  pull_secret:
    description: Name of the pull secret.
    type: str
    default: ngc-secret
  runtime_secret:
    description: Name of the runtime secret.
    type: str
    default: nvidia-nim-secrets
  registries:
    description:
      - Registries of the pull secret.
    type: list
    elements: dict
    default:
      - host: nvcr.io
    suboptions:
      host:
        description: Name of the registry, with its port if it has one.
        type: str
        required: true
      username:
        description: Its user. The default is literally what nvcr.io wants.
        type: str
        default: $oauthtoken
      password:
        description: Its password. O(ngc_api_key) if not set.
        type: str
  adopt:
    description:
      - Take over, or with O(state=absent) remove, Secrets of these names that somebody else made.
    type: bool
    default: false
  removed_with:
    description:
      - With O(state=absent), the services that are removed along with the Secrets, as namespace/name. A Secret that
        another InferenceService of its namespace, or another pod, uses stays then, and a warning names it.
      - Not set, the Secrets are removed whoever uses them.
    type: list
    elements: str
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
    details: Values are replaced by their fingerprints.
  idempotent:
    support: full
seealso:
  - module: gpuops.nim.nim_kserve
"""

EXAMPLES = r"""
- name: Key from the environment variable NGC_API_KEY, into two namespaces
  gpuops.nim.nim_secret:
    namespaces: [nim, nim-test]
    create_namespace: true

- name: Key from a vault, images from nvcr.io or from a mirror with its own user
  gpuops.nim.nim_secret:
    namespace: nim
    ngc_api_key: "{{ vaulted_ngc_api_key }}"
    registries:
      - host: nvcr.io
      - host: mirror.example.com:5000
        username: puller
        password: "{{ vaulted_mirror_password }}"
  register: secret

- name: Who still runs with the old key?
  ansible.builtin.debug:
    var: secret.pods_with_old_key

- name: Remove both
  gpuops.nim.nim_secret:
    namespace: nim
    state: absent
"""

RETURN = r"""
secrets:
  description: What became of each Secret.
  returned: always, unless nothing was sent
  type: list
  elements: dict
  contains:
    namespace:
      description: Where it is.
      type: str
      sample: nim
    name:
      description: Its name.
      type: str
      sample: nvidia-nim-secrets
    kind:
      description: V(pull) or V(runtime).
      type: str
      sample: runtime
    action:
      description: V(created), V(changed), V(unchanged), V(deleted) or V(absent). In check mode, what it would be.
      type: str
      sample: unchanged
    fingerprint:
      description:
        - That of the key, or of the password of the first registry.
        - The same key has the same one in Secrets that one task made.
      type: str
      sample: 5f2b8a90c1de
    fingerprints:
      description: The fingerprint of each variable, or of each registry's password. Null where a Secret has no salt.
      type: dict
      sample: {HF_TOKEN: 0c9a4be1775d, NGC_API_KEY: 5f2b8a90c1de}
    pods_with_old_key:
      description: Pods with a running container that started before the values it uses changed. Restart them.
      type: list
      elements: str
      sample: [llama3-8b-instruct-predictor-7d9c5-x2x8k]
pods_with_old_key:
  description: The same over all namespaces, as namespace/pod.
  returned: always, unless nothing was sent
  type: list
  elements: str
  sample: [nim/llama3-8b-instruct-predictor-7d9c5-x2x8k]
pods_unknown:
  description:
    - Pods of which it can't be known. They started in the second of the change, or the Secret doesn't tell when it was.
    - A V(*) in place of a name stands for all pods of a namespace in which pods may not be listed.
  returned: always, unless nothing was sent
  type: list
  elements: str
  sample: []
"""

from ansible.module_utils.basic import env_fallback

from ansible_collections.gpuops.nim.plugins.module_utils._ansible import ModuleSpec, run_module
from ansible_collections.gpuops.nim.plugins.module_utils._kube.auth import AUTH_ARGUMENTS
from ansible_collections.gpuops.nim.plugins.module_utils._ops import secret

SPEC = ModuleSpec(
    argument_spec={
        **AUTH_ARGUMENTS,
        "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        "namespaces": {"type": "list", "elements": "str", "aliases": ["namespace"], "default": ["default"]},
        "create_namespace": {"type": "bool", "default": False},
        "ngc_api_key": {"type": "str", "no_log": True, "fallback": (env_fallback, ["NGC_API_KEY"])},
        "hf_token": {"type": "str", "no_log": True, "fallback": (env_fallback, ["HF_TOKEN"])},
        "pull_secret": {"type": "str", "default": "ngc-secret", "no_log": False},
        "runtime_secret": {"type": "str", "default": "nvidia-nim-secrets", "no_log": False},
        "registries": {
            "type": "list",
            "elements": "dict",
            "default": [{"host": "nvcr.io"}],
            "options": {
                "host": {"type": "str", "required": True},
                "username": {"type": "str", "default": "$oauthtoken"},
                "password": {"type": "str", "no_log": True},
            },
        },
        "adopt": {"type": "bool", "default": False},
        "removed_with": {"type": "list", "elements": "str"},
    },
    run=secret.run,
)


def main() -> None:
    run_module(SPEC)


if __name__ == "__main__":
    main()
