#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: Contributors to gpuops.nim
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: nim_kserve
version_added: 0.1.0
short_description: NVIDIA NIM services behind KServe
description:
  - Deploys one or many NVIDIA NIM services as KServe InferenceServices (Standard mode, called RawDeployment before
    KServe 0.16) and waits until each answers with the wanted specification, or removes them.
  - A service is ready when KServe says so, its Deployment has taken over the new specification and rolled it out to
    the last pod, and the new pods are ready. An old pod that still answers does not count.
  - The wait watches, shows every change of state live, survives a restart of the API server, and ends at once for a
    service whose failure will not heal, with the cause, the evidence and what to do. The other services go on.
  - A pod of an unchanged service that was already failing when the task began (image refused, crash loop) is deleted
    once, so that a repaired key or secret is tried at once; the kubelet alone would pause up to five minutes.
  - Several services go into O(services). Every option of one service may stand in such an entry, too; what all entries
    share stands at the top level. An entry's value replaces the shared one, dictionaries as a whole.
  - Nothing is written if nothing changes. Objects that others made are refused unless O(adopt=true).
author:
  - Contributors to gpuops.nim (@gpuops)
extends_documentation_fragment:
  - gpuops.nim.auth
  - gpuops.nim.attributes
  - gpuops.nim.attributes.action_group
  - gpuops.nim.service
options:
  state:
    description:
      - With V(absent) the services go, with what was made for them, and the task waits for the end of their pods.
      - With V(stopped) only their pods go, and free the GPUs. V(present) starts them again. Only O(name) and
        O(namespace) matter. KServe can do it from 0.16 on.
      - For the task as a whole, as are O(services), O(kserve_namespace), O(wait), O(wait_timeout) and
        O(unschedulable_grace).
    type: str
    choices: [present, stopped, absent]
    default: present
  services:
    description:
      - Several services, each a dictionary of the other options, laid over those at the top level. All are checked
        before anything is sent. One that fails does not stop the others; the task fails at its end and names each.
    type: list
    elements: dict
  kserve_namespace:
    description: The namespace of KServe's controller, where its ConfigMap is.
    type: str
    default: kserve
  wait:
    description: Wait until the services are ready, or gone.
    type: bool
    default: true
  wait_timeout:
    description: Seconds to wait, for all services together.
    type: int
    default: 3600
  unschedulable_grace:
    description:
      - Seconds that a failure which may pass by itself, such as no free GPU, must last before it counts.
      - While a pod that is ending holds the GPU, the wait goes on however long it takes.
    type: int
    default: 60
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: full
    details: A service that stays broken has its failing pod renewed once by every run, which counts as a change.
seealso:
  - module: gpuops.nim.nim_secret
  - module: gpuops.nim.nim_chat
"""

EXAMPLES = r"""
- name: One model with its cache, until it is ready
  gpuops.nim.nim_kserve:
    name: llama3-8b-instruct
    image: nvcr.io/nim/meta/llama3-8b-instruct:1.0.0
    cache:
      claim: nim-model
      size: 100Gi
  register: nim

- name: How to ask it
  ansible.builtin.debug:
    msg: "{{ nim.services[0].curl }}"

- name: Two models at once, with what they share at the top level
  gpuops.nim.nim_kserve:
    namespace: nim
    create_namespace: true
    enable_prometheus: true
    tolerations:
      - {key: nvidia.com/gpu, operator: Exists, effect: NoSchedule}
    services:
      - name: llama3-8b-instruct
        image: nvcr.io/nim/meta/llama3-8b-instruct:1.0.3
        cache: {claim: nim-model, size: 100Gi}
      - name: nv-embedqa-e5-v5
        image: nvcr.io/nim/nvidia/nv-embedqa-e5-v5:1.0.0
        memory: 24Gi
        replicas: 2

- name: A name of its own with TLS, and no other way in
  gpuops.nim.nim_kserve:
    name: llama3-8b-instruct
    image: nvcr.io/nim/meta/llama3-8b-instruct:1.0.0
    endpoint_host: llama.example.com
    tls_secret: llama-tls # kubectl create secret tls llama-tls --cert=FILE --key=FILE
    labels:
      networking.kserve.io/visibility: cluster-local

- name: Behind a proxy with a CA of its own, scaled by the requests that wait
  gpuops.nim.nim_kserve:
    name: llama-31-8b-instruct
    image: nvcr.io/nim/meta/llama-3.1-8b-instruct:1.3.0
    cache: {claim: nim-model, size: 200Gi, access_modes: [ReadWriteMany]}
    pod_proxy: {https: "http://proxy.example.com:3128"}
    ca_bundle: {config_map: company-ca}
    max_replicas: 3
    scale_metric: num_requests_waiting
    scale_target: 10
    enable_prometheus: true
    monitor_labels: {release: kube-prometheus-stack}

- name: A field that has no option
  gpuops.nim.nim_kserve:
    name: llama3-8b-instruct
    image: nvcr.io/nim/meta/llama3-8b-instruct:1.0.0
    pod_patch:
      hostAliases: [{ip: 203.0.113.9, hostnames: [mirror.example.com]}]
      containers:
        - name: kserve-container
          securityContext:
            allowPrivilegeEscalation: false

- name: Remove a service and the claim that was made for it
  gpuops.nim.nim_kserve:
    state: absent
    name: llama3-8b-instruct
    keep_cache: false
"""

RETURN = r"""
services:
  description: One entry for each service, in the order of the task.
  returned: always, unless nothing was sent
  type: list
  elements: dict
  contains:
    name:
      description: Its name.
      type: str
      sample: llama3-8b-instruct
    namespace:
      description: Its namespace.
      type: str
      sample: default
    action:
      description:
        - V(created), V(changed), V(unchanged), V(restarted), V(stopped), V(deleted) or V(absent). In check mode, what
          it would be.
        - Empty if it could not be sent.
      type: str
      sample: created
    state:
      description:
        - Where the service was last seen. V(absent), V(stopped), V(scheduling), V(pulling), V(starting), V(loading),
          V(ready)
          or V(failed). Empty if it was not looked at.
      type: str
      sample: ready
    url:
      description:
        - The address for its users, that of O(endpoint_host) if given. Otherwise KServe's, null until it has one.
        - Has the port of O(ingress_address), if that is an HTTPS port other than 443.
      type: str
      sample: http://llama3-8b-instruct-default.example.com
    address:
      description: Where its ingress is reached. Null if unknown or if there is none.
      type: str
      sample: 203.0.113.7
    host:
      description: The Host header by which the ingress finds it.
      type: str
      sample: llama3-8b-instruct-default.example.com
    curl:
      description:
        - A command that asks it. From inside the cluster alone, if there is neither an address nor O(endpoint_host).
        - With O(ingress_address) it works although the name leads nowhere yet; C(--connect-to) of curl sees to that
          where the certificate needs the name in the URL.
      type: str
      sample: >-
        curl -s http://203.0.113.7/v1/chat/completions -H 'Host: llama3-8b-instruct-default.example.com'
        -H 'Content-Type: application/json' -d '{"model": "meta/llama3-8b-instruct",
        "messages": [{"role": "user", "content": "What is a GPU?"}], "max_tokens": 64}'
    model:
      description:
        - The id of the model in requests, judged by the image or by E(NIM_SERVED_MODEL_NAME). Null if neither is given;
          RV(services[].curl) then asks for it.
      type: str
      sample: meta/llama3-8b-instruct
    update_strategy:
      description: V(in_place) or V(surge), what O(update_strategy) came to. Null unless O(state=present).
      type: str
      sample: surge
    phases:
      description:
        - Seconds that each step of the slowest new pod took. C(scheduled) until it had a node, C(pulled) until the
          image was
          there, C(started) until the container ran, C(ready) until the model was loaded. Unknown ones are missing.
      type: dict
      sample: {scheduled: 0.0, pulled: 74.0, started: 1.0, ready: 92.0}
    waited:
      description: Seconds that the task waited for it.
      type: float
      sample: 167.3
    findings:
      description: What keeps or kept it from being ready, final causes first.
      type: list
      elements: dict
      contains:
        id:
          description:
            - The rule that found it; docs/findings.md lists them all. V(image-pull-refused), V(config-error),
              V(out-of-memory), V(crash-loop), V(volume), V(unschedulable), V(admission-refused), V(kserve-refused) and
              V(node-lost) are the most common ones.
            - V(kserve-refused) is what KServe itself may not make, V(controller-silent) that KServe, the scheduler or
              another controller (C(variant) says which) has not acted in time though nothing says why.
          type: str
          sample: image-pull-refused
        variant:
          description: The case of it, for example V(key), V(entitlement), V(right), V(no-secret), V(name) or
            V(network).
          type: str
          sample: key
        cause:
          description: What is wrong.
          type: str
          sample: "the registry refuses the key: it is wrong, expired or revoked (401)."
        evidence:
          description: What was seen, in the words of the cluster, without credentials.
          type: list
          elements: str
          sample:
            - "container kserve-container of pod llama3-8b-instruct-predictor-6b9c8f5d7-x2x4k: ErrImagePull: failed to
              authorize: failed to fetch oauth token: unexpected status from GET request to
              https://nvcr.io/proxy_auth?scope=repository%3Anim%2Fmeta%2Fllama3-8b-instruct%3Apull: 401 Unauthorized"
        remedy:
          description: What to do.
          type: str
          sample: renew it with `ansible-playbook gpuops.nim.rotate_key -e @key.yml`, which writes both secrets and
            renews the pods that need it (or with nim_secret, then run this again)
        heals:
          description: Whether Kubernetes gets over it by itself.
          type: bool
          sample: false
        lasting:
          description: Whether it only counts after O(ignore:unschedulable_grace).
          type: bool
          sample: false
        severity:
          description: V(error) where a person has to act or requests are not answered because of it, else V(warning).
          type: str
          sample: error
        confidence:
          description: How sure it is, V(certain), V(likely) or V(possible).
          type: str
          sample: likely
        docs:
          description: Where to read more.
          type: str
          sample: https://github.com/gpuops/gpuops.nim/blob/main/docs/findings.md#image-pull-refused-key
    error:
      description: Why it failed. Empty otherwise.
      type: str
      sample: ""
"""

from ansible_collections.gpuops.nim.plugins.module_utils._ansible import ModuleSpec, run_module
from ansible_collections.gpuops.nim.plugins.module_utils._kube.auth import AUTH_ARGUMENTS
from ansible_collections.gpuops.nim.plugins.module_utils._ops import kserve
from ansible_collections.gpuops.nim.plugins.module_utils._ops.services import SERVICE_ARGUMENTS, TASK_ARGUMENTS

SPEC = ModuleSpec(argument_spec={**AUTH_ARGUMENTS, **SERVICE_ARGUMENTS, **TASK_ARGUMENTS}, run=kserve.run)


def main() -> None:
    run_module(SPEC)


if __name__ == "__main__":
    main()
