#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: Contributors to gpuops.nim
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: nim_chat
version_added: 0.1.0
short_description: Ask NIM services a question
description:
  - Asks a model one question, in the way its users do, and returns the answer and how long it took.
  - Several services go into O(services) and are asked at the same time. All options above it in the list below may
    stand in such an entry, too; what all entries share stands at the top level.
  - Where no answer comes, the message tells whether the ingress or the model refused, and what to do about it.
  - Never changes anything. In check mode it doesn't ask, because a question costs GPU time.
author:
  - Contributors to gpuops.nim (@gpuops)
extends_documentation_fragment:
  - gpuops.nim.auth
  - gpuops.nim.attributes
  - gpuops.nim.attributes.action_group
options:
  name:
    description:
      - Name of the InferenceService. Needed for each service, unless O(address) leads to a model without a cluster.
    type: str
  namespace:
    description: Its namespace.
    type: str
    default: default
  api:
    description: What kind of model it is.
    type: str
    choices: [chat, embeddings, ranking]
    default: chat
  via:
    description:
      - V(ingress) is the way of the users. V(apiserver) goes through the API server's service proxy, with the
        rights of the kubeconfig's user, who needs C(get) and C(create) on C(services/proxy).
      - V(auto) takes the ingress if the service has one, else the API server.
    type: str
    choices: [auto, ingress, apiserver]
    default: auto
  address:
    description:
      - Address of the ingress, as host:port or URL. If not set, what the status of the service's Ingress says, or
        that of the Gateway of its HTTPRoute.
      - Without a scheme it is asked in the way of the service's URL, by HTTPS if M(gpuops.nim.nim_kserve) gave it an
        O(gpuops.nim.nim_kserve#module:tls_secret). Its port must then be the one for HTTPS.
    type: str
    aliases: [ingress_address]
  host_header:
    description:
      - The Host header, and the name in the certificate, also where O(address) is an IP address.
      - If not set, O(gpuops.nim.nim_kserve#module:endpoint_host) of the service, else the host that KServe gave it.
    type: str
  tls_ca:
    description:
      - File with the CA that signed the certificate, in PEM format. If not set, E(REQUESTS_CA_BUNDLE), else the CAs
        that the Python package C(requests) trusts.
    type: path
  tls_verify:
    description: Whether to check that certificate.
    type: bool
    default: true
  model:
    description: Id of the model. If not set, the first that is served.
    type: str
  prompt:
    description: The question.
    type: str
    default: What is the capital of France? Answer in one sentence.
  messages:
    description: A whole conversation in the format of the chat API, in place of O(prompt).
    type: list
    elements: dict
  passages:
    description: What O(api=ranking) puts in order of fitness to O(prompt).
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
    description: Whether the answer comes word by word. Without it there is no time to the first token.
    type: bool
    default: true
  timeout:
    description: Seconds for all of it; with O(services), for each service.
    type: int
    default: 60
  services:
    description:
      - Several services, each a dictionary of the options above, laid over those at the top level. All are checked
        before any is asked. One that fails hides no other.
      - An entry's O(prompt) goes before O(messages) of the top level.
    type: list
    elements: dict
attributes:
  check_mode:
    support: full
    details: Nothing is asked. The result says so in RV(skipped_reason).
  diff_mode:
    support: none
  idempotent:
    support: full
    details: Nothing is changed, but each run asks.
seealso:
  - module: gpuops.nim.nim_kserve
"""

EXAMPLES = r"""
- name: Ask through the ingress that the service names
  gpuops.nim.nim_chat:
    name: llama3-8b-instruct
    namespace: nim
    prompt: Write a limerick about the wonders of GPU computing.
  register: chat

- name: Ask without an ingress
  gpuops.nim.nim_chat:
    name: llama3-8b-instruct
    namespace: nim
    via: apiserver

- name: Ask by HTTPS, with a certificate of one's own CA
  gpuops.nim.nim_chat:
    name: llama3-8b-instruct
    namespace: nim
    address: 203.0.113.7:443
    tls_ca: ca.pem

- name: Ask all models of a namespace, each in its way
  gpuops.nim.nim_chat:
    namespace: nim
    prompt: What is GPU computing?
    services:
      - name: llama3-8b-instruct
      - name: nv-embedqa-e5-v5
        api: embeddings

- name: Ask an embedding model behind a known address
  gpuops.nim.nim_chat:
    address: https://models.example.com
    api: embeddings
    prompt: GPU computing
"""

RETURN = r"""
answer:
  description: What the model said.
  returned: for O(api=chat)
  type: str
  sample: The capital of France is Paris.
model:
  description: The model that was asked.
  returned: when a model server answered
  type: str
  sample: meta/llama3-8b-instruct
served_models:
  description: The ids of all models that are served there.
  returned: when a model server answered
  type: list
  elements: str
  sample: [meta/llama3-8b-instruct]
finish_reason:
  description: Why the answer ended. V(length) means that O(max_tokens) cut it.
  returned: for O(api=chat)
  type: str
  sample: stop
tokens:
  description: Tokens of the question (C(prompt)) and of the answer (C(completion)). Null where the server doesn't say.
  returned: success
  type: dict
  sample: {prompt: 22, completion: 8}
seconds_to_first_token:
  description: From the question to the first token of the answer. Null without O(stream).
  returned: for O(api=chat)
  type: float
  sample: 0.041
dimensions:
  description: Length of the embedding.
  returned: for O(api=embeddings)
  type: int
  sample: 1024
rankings:
  description: The passages' indexes and scores, best first.
  returned: for O(api=ranking)
  type: list
  elements: dict
  sample: [{index: 0, logit: 9.1}, {index: 1, logit: -12.4}]
seconds:
  description: How long all of it took.
  returned: success
  type: float
  sample: 0.31
url:
  description: Where the question went. With RV(via=apiserver), a path on the API server.
  returned: when a model server answered
  type: str
  sample: http://203.0.113.7/v1/chat/completions
host:
  description: The Host header it carried. Null with RV(via=apiserver).
  returned: when a model server answered
  type: str
  sample: llama3-8b-instruct-nim.example.com
via:
  description: V(ingress) or V(apiserver).
  returned: when a model server answered
  type: str
  sample: ingress
services:
  description:
    - What each service answered, in the order of O(services). An entry holds all of the above.
    - Without O(services) the values above stand at the top level.
  returned: with O(services), except in check mode
  type: list
  elements: dict
  contains:
    name:
      description: Name of the InferenceService. Null where only an address was given.
      type: str
      sample: llama3-8b-instruct
    namespace:
      description: Its namespace. Null where only an address was given.
      type: str
      sample: nim
    error:
      description: Why there is no usable answer. Empty where there is one.
      type: str
      sample: ""
skipped_reason:
  description: Why nothing was asked.
  returned: in check mode
  type: str
  sample: A question costs GPU time, so none is asked in check mode.
"""

from ansible_collections.gpuops.nim.plugins.module_utils._ansible import ModuleSpec, run_module
from ansible_collections.gpuops.nim.plugins.module_utils._kube.auth import AUTH_ARGUMENTS
from ansible_collections.gpuops.nim.plugins.module_utils._ops import chat

SPEC = ModuleSpec(
    argument_spec={
        **AUTH_ARGUMENTS,
        **chat.QUESTION_ARGUMENTS,
        "services": {"type": "list", "elements": "dict"},
    },
    run=chat.run,
    rules={"mutually_exclusive": [("prompt", "messages")], "required_one_of": [("name", "address", "services")]},
)


def main() -> None:
    run_module(SPEC)


if __name__ == "__main__":
    main()
