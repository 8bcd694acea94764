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
  - Several services go into O(services). Every option in the first part of the list below may stand in such an
    entry, too; what all entries share stands at the top level. An entry's value replaces the shared one,
    dictionaries as a whole.
  - Nothing is written if nothing changes. Objects that others made are refused unless O(adopt=true).
author:
  - Contributors to gpuops.nim (@gpuops)
extends_documentation_fragment:
  - gpuops.nim.auth
  - gpuops.nim.attributes
  - gpuops.nim.attributes.action_group
options:
  name:
    description:
      - Name of the service. The host name that KServe derives from it, C(NAME-predictor-NAMESPACE), may have 63
        characters.
      - Needed for each service.
    type: str
  namespace:
    description: Its namespace.
    type: str
    default: default
  create_namespace:
    description: Make the namespace if it does not exist. One that exists is left as it is.
    type: bool
    default: false
  image:
    description:
      - The NIM image with its tag, for example V(nvcr.io/nim/meta/llama3-8b-instruct:1.0.0). Needed for
        O(state=present).
      - The tag also says which release line's paths and probes apply; without a version in it the newest are taken.
    type: str
  image_pull_policy:
    description: When the image is pulled. Kubernetes decides by the tag if not set.
    type: str
    choices: [Always, IfNotPresent, Never]
  image_pull_secrets:
    description: Pull secrets in the same namespace; M(gpuops.nim.nim_secret) makes the default one.
    type: list
    elements: str
    aliases: [image_pull_secret]
    default: [ngc-secret]
  gpus:
    description:
      - GPUs for each replica. NIM wants exactly as many as its profile says (tensor times pipeline parallelism).
    type: int
    default: 1
  gpu_resource:
    description: The extended resource that O(gpus) counts, for example V(nvidia.com/mig-1g.10gb) for MIG.
    type: str
    default: nvidia.com/gpu
  cpu:
    description:
      - CPU for each replica, as request and as limit. NVIDIA's support matrix names 8 cores as the least.
      - KServe would set 1 CPU for what is left out.
    type: str
    default: "8"
  memory:
    description:
      - Memory for each replica, as request and as limit; O(share_memory) counts inside it.
      - The default is that of NVIDIA's KServe runtimes for 8B models. As a rule 10 GB, plus O(share_memory), plus 2
        GB for
        each billion of parameters. KServe would set 2Gi for what is left out, which no NIM survives.
    type: str
    default: 32Gi
  share_memory:
    description:
      - Size of V(/dev/shm), as NVIDIA's KServe runtimes set it. Needed for several GPUs without NVLink. Empty for
        none.
    type: str
    aliases: [shared_memory]
    default: 16Gi
  port:
    description: The port that NIM listens on. Another than 8000 is passed to NIM as E(NIM_SERVER_PORT), too.
    type: int
    default: 8000
  security_context:
    description:
      - Security context of the pod. NIM runs as user 1000; the default group makes a fresh volume writable for it.
      - An NFS export (Alibaba Cloud NAS) that maps groups away needs C(runAsUser=0) in here, or another owner.
    type: dict
    default: {fsGroup: 1000}
  annotations:
    description: Annotations of the InferenceService. KServe copies them to the pods, so a change restarts the model.
    type: dict
  labels:
    description: Labels of the InferenceService. KServe copies them to the pods, so a change restarts the model.
    type: dict
  env:
    description:
      - Environment variables of NIM. E(NIM_CACHE_PATH) and E(NIM_SERVER_PORT) follow from O(cache) and O(port).
      - Set in the order of their names, after those of O(env_from_secret).
    type: dict
  env_from_secret:
    description:
      - Variables whose values are in a Secret. The value is the Secret's name, if its key is called like the
        variable, or a dictionary with C(secret) and C(key).
    type: dict
    default: {NGC_API_KEY: nvidia-nim-secrets}
  cache:
    description:
      - A PersistentVolumeClaim for the model files, so that a restart need not download them again.
      - Mounted writable as an ordinary volume. KServe's own way (C(storageUri)) mounts it read-only, which NIM can't
        use.
    type: dict
    suboptions:
      claim:
        description: Name of the claim. Several services may share one.
        type: str
        required: true
      path:
        description: Where it is mounted; also the value of E(NIM_CACHE_PATH).
        type: str
        default: /mnt/models
      size:
        description:
          - With a size the claim is made when it is missing; without, it must exist. One that exists is left as it
            is.
        type: str
      storage_class:
        description: Storage class of a claim that is made; the cluster's default if not set.
        type: str
      access_modes:
        description:
          - Access modes of a claim that is made. Replicas on several nodes need V(ReadWriteMany).
        type: list
        elements: str
        choices: [ReadWriteOnce, ReadWriteMany, ReadWriteOncePod]
        default: [ReadWriteOnce]
  min_replicas:
    description: The least number of replicas, and the number with O(autoscaler_class=none).
    type: int
    aliases: [replicas]
    default: 1
  max_replicas:
    description: The greatest number of replicas, for the autoscalers.
    type: int
  autoscaler_class:
    description:
      - Who decides the number of replicas. V(none) keeps O(min_replicas), V(hpa) is KServe's own
        HorizontalPodAutoscaler
        on CPU, V(external) leaves it to one of yours, V(keda) to a ScaledObject.
    type: str
    choices: [none, hpa, external, keda]
    default: none
  enable_prometheus:
    description:
      - Make a Service and a ServiceMonitor for the metrics of NIM, at the path of its release line. KServe's own
        annotation for this names a port that only Knative has.
      - A cluster without the Prometheus operator gets the Service alone, and a warning.
      - If this is turned off again, both are removed.
    type: bool
    default: false
  metrics_port:
    description: The port of the metrics; O(port) if not set.
    type: int
  update_strategy:
    description:
      - V(in_place) ends an old pod first, so that the new one gets its GPU, with a gap while the model loads.
        V(surge) starts the new one first, without a gap, and needs a free GPU for it.
    type: str
    choices: [in_place, surge]
    default: in_place
  startup_timeout:
    description:
      - Seconds in which a container must have downloaded and loaded its model before Kubernetes restarts it.
      - The default is that of NVIDIA's nim-llm chart (180 probes, 10 seconds apart).
    type: int
    default: 1800
  node_selector:
    description: Labels that the node must have, for example C(nvidia.com/gpu.product).
    type: dict
  tolerations:
    description: Taints that the pod tolerates, each a dictionary as in a pod.
    type: list
    elements: dict
  service_account_name:
    description: The pod's service account.
    type: str
  deployment_mode:
    description:
      - KServe's word for the mode without Knative. V(auto) keeps that of a live service and else asks KServe's
        ConfigMap
        in O(kserve_namespace) and, where that is in doubt, the version of its controller.
    type: str
    choices: [auto, Standard, RawDeployment]
    default: auto
  pod_patch:
    description:
      - Laid over the predictor's pod at the very end, for fields that have no option of their own.
      - Has the form of a pod's C(spec), and the rules of a strategic merge patch. Containers, volumes and variables
        are merged by name, ports by C(containerPort), mounts by C(mountPath). V(null) removes a field,
        C($patch=delete) an item.
      - NIM's container is called C(kserve-container).
    type: dict
  endpoint_host:
    description:
      - A DNS name of your own for the service, such as V(llama.example.com), beside the one that KServe makes.
      - An Ingress called C(NAME-endpoint) serves it, of the class that KServe's ConfigMap in O(kserve_namespace) names.
        It goes when this is no longer given.
      - KServe's own host stays reachable by plain HTTP. The label
        C(networking.kserve.io/visibility=cluster-local) in O(labels) takes it away, from the first deployment on. A
        label that comes later leaves the Ingress that KServe has made; a warning then says how to remove it.
    type: str
  tls_secret:
    description:
      - Serve O(endpoint_host) by HTTPS, with the certificate and key of this Secret of the type C(kubernetes.io/tls)
        in the service's namespace. It must exist. Plain HTTP is then sent on to HTTPS, by Contour and nginx at least.
      - TLS is no login. Everyone who reaches the ingress may still ask.
    type: str
  ingress_address:
    description:
      - Where the ingress is reached, as C(host:port) or URL, for the result alone.
      - Without a scheme, that of the service's URL. With O(tls_secret) the port is the one for HTTPS, for example
        V(https://127.0.0.1:18443).
      - Taken from the status of the service's Ingress if not set.
    type: str
  adopt:
    description:
      - Take over, or with O(state=absent) remove, objects of these names that somebody else made.
    type: bool
    default: false
  keep_cache:
    description:
      - Leave the cache claim when O(state=absent). Otherwise a claim that this module made goes too, unless another
        service uses it.
    type: bool
    default: true
  state:
    description:
      - With V(absent) the services go, with what was made for them, and the task waits for the end of their pods.
      - For the task as a whole, like all options from here on.
    type: str
    choices: [present, absent]
    default: present
  services:
    description:
      - Several services, each a dictionary of the options above, laid over those at the top level. All are checked
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

- name: A field that has no option
  gpuops.nim.nim_kserve:
    name: llama3-8b-instruct
    image: nvcr.io/nim/meta/llama3-8b-instruct:1.0.0
    pod_patch:
      priorityClassName: inference
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
        - V(created), V(changed), V(unchanged), V(restarted), V(deleted) or V(absent). In check mode, what it would
          be.
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
      description: The id of the model in requests, judged by the image or by E(NIM_SERVED_MODEL_NAME).
      type: str
      sample: meta/llama3-8b-instruct
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
            - V(image-pull-refused), V(config-error), V(out-of-memory), V(crash-loop), V(unschedulable) or
              V(admission-refused).
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
            - "failed to authorize: failed to fetch oauth token: unexpected status from GET request to
              https://nvcr.io/proxy_auth?scope=repository%3Anim%2Fmeta%2Fllama3-8b-instruct%3Apull: 401 Unauthorized"
        remedy:
          description: What to do.
          type: str
          sample: renew it with nim_secret, which writes both secrets, then run this again
        heals:
          description: Whether Kubernetes gets over it by itself.
          type: bool
          sample: false
        lasting:
          description: Whether it only counts after O(ignore:unschedulable_grace).
          type: bool
          sample: false
        docs:
          description: Where to read more.
          type: str
          sample: https://docs.nvidia.com/nim/large-language-models/latest/
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
