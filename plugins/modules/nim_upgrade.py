#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: Contributors to gpuops.nim
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: nim_upgrade
version_added: 0.1.0
short_description: Bring NIM services to another image or model profile, and back when that does not work
description:
  - Brings services that run to another image, tag or model profile. Nothing is upgraded by itself, each time says to
    what.
  - The nodes fetch the new image first. One that can't be had, because the tag is missing or the key may not have it,
    ends the run before any service was touched.
  - Then the specification that works now is recorded in the cluster, the service is rolled out, watched as by
    M(gpuops.nim.nim_kserve), and asked a question as by M(gpuops.nim.nim_chat).
  - A release that fails for good, is not ready in time or does not answer is taken back to the recorded specification.
    The task fails then, with the cause.
  - An outage of the registry, of NGC, of the ingress or of the API server says nothing of a release. Nothing is taken
    back because of one; the same run again goes on.
  - Several services go into O(services). They are checked and their images fetched together, and then upgraded one
    after the other, until one fails.
  - A run that was cut off is finished by the same run again. All that it has to know is in the cluster.
author:
  - Contributors to gpuops.nim (@gpuops)
extends_documentation_fragment:
  - gpuops.nim.auth
  - gpuops.nim.attributes
  - gpuops.nim.attributes.action_group
options:
  name:
    description: Name of the InferenceService. Needed, unless O(services) is given.
    type: str
  namespace:
    description: Its namespace.
    type: str
    default: default
  image:
    description:
      - The image to go to, with its tag.
      - Write it into the task or inventory that deploys the service, too, or the next run of that takes it back.
    type: str
  tag:
    description: Another tag of the image that the service has, in place of O(image).
    type: str
  model_profile:
    description:
      - The model profile to go to, by id or name, as C(list-model-profiles) in the image shows them. An empty text
        leaves the choice to NIM again.
      - If not set, it stays. It must be set where the service is bound to a profile's id, and the new image is of
        another line (1.x, 2.x) or another model, for ids are not the same there.
    type: str
  update_strategy:
    description:
      - V(surge) starts the new pod beside the old one, which serves until the new one is ready. V(in_place) ends the
        old one first.
      - V(auto) is V(surge) where a node has room for a second pod at this moment, and the quotas of the namespace have,
        else V(in_place).
    type: str
    choices: [auto, in_place, surge]
    default: auto
  chat:
    description:
      - How the new release is asked. The options are those of M(gpuops.nim.nim_chat).
      - Where nobody is reached on that way, the API server's is tried, and a model that answers there is not taken
        back.
    type: dict
    suboptions:
      api:
        description:
          - What kind of model it is. V(auto) goes by the image's name. V(none) does not ask; a pod that is ready is
            enough then.
        type: str
        choices: [auto, chat, embeddings, ranking, none]
        default: auto
      via:
        description:
          - The users' way through the ingress, or the API server's. V(auto) takes the ingress if there is one.
        type: str
        choices: [auto, ingress, apiserver]
        default: auto
      address:
        description: Address of the ingress. If not set, what the service's Ingress or Gateway says.
        type: str
        aliases: [ingress_address]
      host_header:
        description: The Host header. If not set, the service's own.
        type: str
      tls_ca:
        description: File with the CA that signed the ingress's certificate, in PEM format.
        type: path
      tls_verify:
        description: Whether to check that certificate.
        type: bool
        default: true
      model:
        description: Id of the model that has to answer. If not set, the first that is served.
        type: str
      prompt:
        description: The question.
        type: str
        default: What is the capital of France? Answer in one sentence.
      messages:
        description: A whole conversation, in place of O(chat.prompt).
        type: list
        elements: dict
      passages:
        description: What O(chat.api=ranking) puts in order.
        type: list
        elements: str
        default: [Paris is the capital of France., Bread is made of flour.]
      max_tokens:
        description: Length of the answer at most, in tokens.
        type: int
        default: 64
      temperature:
        description: How freely the model chooses its words.
        type: float
        default: 0.0
      stream:
        description: Whether the answer comes word by word.
        type: bool
        default: true
      timeout:
        description: Seconds for the answer.
        type: int
        default: 60
  adopt:
    description:
      - Take over a service that somebody else made. It keeps all it has, apart from its release, and is ours from then
        on.
    type: bool
    default: false
  services:
    description:
      - Several services, each a dictionary of the options above, laid over those at the top level. All are checked, and
        their images fetched, before any is changed.
      - They are upgraded in this order. After one that failed, no further one is begun.
    type: list
    elements: dict
  pre_pull:
    description:
      - V(auto) has the nodes that run a service, and the one with room for its next pod, fetch the new image before the
        service is touched. A small pod without a GPU does it and is removed in any case. Where such a pod is not
        allowed or can't run, a warning says so and the upgrade goes on.
      - V(never) leaves it out. A missing tag then shows in the rollout, and the service is taken back.
    type: str
    choices: [auto, never]
    default: auto
  rollback:
    description: Whether to go back to what worked before, when the new release does not.
    type: bool
    default: true
  keep:
    description:
      - How many recorded specifications of a service to keep, as ControllerRevisions. The newest is the way back.
    type: int
    default: 3
  kserve_namespace:
    description: Namespace of KServe's controller.
    type: str
    default: kserve
  wait_timeout:
    description:
      - Seconds for all images to be fetched, and for each service to be ready. A large model takes long to load.
    type: int
    default: 3600
  unschedulable_grace:
    description: Seconds that a pod may be without a node before that counts as a failure.
    type: int
    default: 60
attributes:
  check_mode:
    support: full
    details: Nothing is fetched, and nobody is asked. The API server checks what would be written.
  diff_mode:
    support: full
  idempotent:
    support: full
    details: A service that has the release already is left as it is, and not asked.
seealso:
  - module: gpuops.nim.nim_kserve
  - module: gpuops.nim.nim_chat
"""

EXAMPLES = r"""
- name: To another release
  gpuops.nim.nim_upgrade:
    name: llama3-8b-instruct
    namespace: nim
    tag: 1.0.3

- name: To a profile that suits the GPUs better
  gpuops.nim.nim_upgrade:
    name: llama3-8b-instruct
    namespace: nim
    model_profile: tensorrt_llm-h100-fp8-tp1-throughput

- name: Two services, one after the other, asked at the ingress's address
  gpuops.nim.nim_upgrade:
    namespace: nim
    chat:
      address: 203.0.113.7
    services:
      - name: llama3-8b-instruct
        tag: 1.0.3
      - name: nv-embedqa-e5-v5
        image: nvcr.io/nim/nvidia/nv-embedqa-e5-v5:1.1.0

- name: In place, without fetching first and without a question
  gpuops.nim.nim_upgrade:
    name: llama3-8b-instruct
    namespace: nim
    image: registry.example.com/nim/meta/llama3-8b-instruct:1.0.3
    update_strategy: in_place
    pre_pull: never
    chat:
      api: none
"""

RETURN = r"""
services:
  description: Each service, in the order of O(services).
  returned: when the cluster could be asked
  type: list
  elements: dict
  contains:
    name:
      description: Name of the InferenceService.
      type: str
      sample: llama3-8b-instruct
    namespace:
      description: Its namespace.
      type: str
      sample: nim
    action:
      description:
        - V(upgraded), V(unchanged), V(rolled_back) (the new release failed), V(failed) (it failed and is still there)
          or V(untouched).
        - In check mode V(upgraded) says what would be done.
      type: str
      sample: upgraded
    before:
      description: The release that the service had. An empty C(model_profile) leaves the choice to NIM.
      type: dict
      sample: {image: "nvcr.io/nim/meta/llama3-8b-instruct:1.0.0", model_profile: ""}
    after:
      description: The release it was to have, also where it was taken back from it.
      type: dict
      sample: {image: "nvcr.io/nim/meta/llama3-8b-instruct:1.0.3", model_profile: ""}
    state:
      description: Where the service is, as in M(gpuops.nim.nim_kserve).
      type: str
      sample: ready
    update_strategy:
      description: V(surge) or V(in_place), as it was done.
      type: str
      sample: surge
    revision:
      description: The ControllerRevision with the specification from before. Null where none was needed, or is known.
      type: str
      sample: llama3-8b-instruct-73d2262dd6
    seconds:
      description:
        - How long each step took. C(pre_pull), C(roll) (until the service was ready), C(chat), C(back) (until the old
          release answered again) and C(all). What was not done is missing.
      type: dict
      sample: {pre_pull: 3.2, roll: 7.0, chat: 0.2, all: 10.6}
    phases:
      description: Seconds of the new pod's steps, as in M(gpuops.nim.nim_kserve).
      type: dict
      sample: {scheduled: 0.0, pulled: 1.0, started: 0.0, ready: 5.0}
    answer:
      description: What the model said, the old one where it was taken back. Null where nobody asked or it has no text.
      type: str
      sample: The capital of France is Paris.
    findings:
      description:
        - Why the release failed, as in M(gpuops.nim.nim_kserve). Empty where it did not, or only did not answer.
      type: list
      elements: dict
      sample: []
    error:
      description: What went wrong, and where the service is now. Empty where all is well.
      type: str
      sample: ""
"""

from ansible_collections.gpuops.nim.plugins.module_utils._ansible import ModuleSpec, run_module
from ansible_collections.gpuops.nim.plugins.module_utils._kube.auth import AUTH_ARGUMENTS
from ansible_collections.gpuops.nim.plugins.module_utils._ops import upgrade

SPEC = ModuleSpec(
    argument_spec={**AUTH_ARGUMENTS, **upgrade.UPGRADE_ARGUMENTS, **upgrade.TASK_ARGUMENTS},
    run=upgrade.run,
    rules={"mutually_exclusive": [("name", "services")], "required_one_of": [("name", "services")]},
)


def main() -> None:
    run_module(SPEC)


if __name__ == "__main__":
    main()
