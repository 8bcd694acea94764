#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: Contributors to gpuops.nim
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: ngc_key_info
version_added: 0.1.0
short_description: Whether a key of NVIDIA NGC will do for images
description:
  - Gives a verdict about one key and any number of images, without pulling one. All images are asked about at the same
    time.
  - Asks without the key first, because newer images need none. Then it takes the way that the kubelet will take, up to
    the image's manifest.
  - A bad verdict is a result, not a failure. A play that depends on the key asserts RV(good).
  - An outage is never taken for a bad key. V(invalid) is said only where NGC's key service confirms what the registry
    says, or where another registry refuses its login twice.
  - C(nvcr.io), mirrors of it, and any other registry that speaks the registry protocol, with tokens or HTTP basic
    authentication, can be asked.
author:
  - Contributors to gpuops.nim (@gpuops)
extends_documentation_fragment:
  - gpuops.nim.registry
  - gpuops.nim.registry.way
  - gpuops.nim.attributes
options:
  images:
    description:
      - The images. All names are checked before any is asked about.
      - Without images only the key itself is asked about.
    type: list
    elements: str
    default: []
    aliases: [image]
attributes:
  check_mode:
    support: full
    details: Nothing is ever changed, so it asks in check mode, too.
  diff_mode:
    support: none
  idempotent:
    support: full
seealso:
  - module: gpuops.nim.nim_secret
  - name: Verdicts about keys
    description: What each verdict means and what to do.
    link: https://github.com/gpuops/gpuops.nim/blob/main/docs/keys.md
"""

EXAMPLES = r"""
- name: Will the key from the environment variable NGC_API_KEY do?
  gpuops.nim.ngc_key_info:
    images:
      - nvcr.io/nim/meta/llama3-8b-instruct:1.0.0
      - nvcr.io/nim/nvidia/nv-embedqa-e5-v5:1.0.0
  register: key

- name: Go no further with a key that won't
  ansible.builtin.assert:
    that: key.good
    fail_msg: "{{ key.images | rejectattr('good') | map(attribute='cause') | join(' ') }}"

- name: Does anybody need a key for this one?
  gpuops.nim.ngc_key_info:
    image: nvcr.io/nim/meta/llama-3.1-8b-instruct:2.0.12

- name: A mirror with a certificate of one's own CA
  gpuops.nim.ngc_key_info:
    image: mirror.example.com:5000/nim/meta/llama3-8b-instruct:1.0.0
    registries:
      - host: mirror.example.com:5000
        username: puller
        password: "{{ vaulted_mirror_password }}"
    registry_ca_cert: /etc/ssl/our-ca.pem

- name: Whose key is it?
  gpuops.nim.ngc_key_info:
    ngc_api_key: "{{ vaulted_ngc_api_key }}"
"""

RETURN = r"""
good:
  description: Whether all images can be had; without images, whether NGC knows the key.
  returned: success
  type: bool
  sample: true
images:
  description: The verdict about each image, in the order of O(images).
  returned: success
  type: list
  elements: dict
  contains:
    image:
      description: The image as it was given.
      type: str
      sample: nvcr.io/nim/meta/llama3-8b-instruct:1.0.0
    verdict:
      description:
        - V(not_needed), anybody may pull it. V(valid), this key or login may.
        - V(invalid), V(expired), V(not_entitled), V(no_such_image) and V(blocked) are established and stay so until
          somebody does something.
        - V(rate_limited), V(unavailable), V(network) and V(unknown) say nothing about the key.
      type: str
      sample: valid
    good:
      description: Whether it is V(not_needed) or V(valid).
      type: bool
      sample: true
    refused:
      description: Whether it is established that this will not do.
      type: bool
      sample: false
    cause:
      description: The reason in a sentence. For V(network) it names the proxy, TLS, DNS or the connection.
      type: str
      sample: nvcr.io gives this image to this key.
    remedy:
      description: What to do. Empty where nothing need be done.
      type: str
      sample: ""
    nearest:
      description: For V(no_such_image), images that exist and are called much the same, the nearest first.
      type: list
      elements: str
      sample: []
    facts:
      description: What the manifest tells, for good verdicts. What isn't known is null or empty.
      type: dict
      contains:
        digest:
          description: Its digest.
          type: str
          sample: sha256:a4d2f0e6c02f5c3d8d0c1a3c5b9b1e3a0c6b0f7e5d2c9a8b7f6e5d4c3b2a1908
        size:
          description: Compressed bytes of its layers, for amd64 if it is there.
          type: int
          sample: 6843345032
        architectures:
          description: The machines it runs on.
          type: list
          elements: str
          sample: [amd64]
        classic:
          description: Whether it holds to the classic contract of NIM. False for those that say C(native-v1).
          type: bool
          sample: true
        release:
          description: Its release, from the tag.
          type: str
          sample: 1.0.0
        line:
          description: The release line that it belongs to.
          type: str
          sample: "1.0"
    evidence:
      description: Each question and its answer. The key, tokens and passwords are never among them.
      type: list
      elements: dict
      contains:
        endpoint:
          description: Method and URL, without its query.
          type: str
          sample: GET https://nvcr.io/proxy_auth
        status:
          description: The HTTP status. Null where no answer came.
          type: int
          sample: 200
        said:
          description: What was said, in short.
          type: str
          sample: OK
        at:
          description: When, in UTC.
          type: str
          sample: "2026-01-31T12:00:00Z"
        auth:
          description: With what kind of login it was asked, V(basic), V(bearer) or V(apikey). Empty for none.
          type: str
          sample: basic
key:
  description:
    - What NGC itself says about O(ngc_api_key), whatever the images. Null without a key, and where all images are of
      other registries.
  returned: success
  type: dict
  contains:
    kind:
      description: V(personal), V(service), V(legacy) or V(unknown).
      type: str
      sample: personal
    verdict:
      description: V(valid), V(invalid), V(expired), or why that isn't known, as for an image.
      type: str
      sample: valid
    organisation:
      description: The organisation at NGC that it belongs to. Empty where NGC doesn't say.
      type: str
      sample: "0571234567890"
    products:
      description: The services that it was made for. Null where NGC doesn't say.
      type: list
      elements: str
      sample: [artifact-catalog]
    cause:
      description: The reason in a sentence.
      type: str
      sample: NGC knows this key.
    remedy:
      description: What to do. Empty where nothing need be done.
      type: str
      sample: ""
    evidence:
      description: As for an image.
      type: list
      elements: dict
"""

from ansible_collections.gpuops.nim.plugins.module_utils._ansible import ModuleSpec, run_module
from ansible_collections.gpuops.nim.plugins.module_utils._ops import key_info

SPEC = ModuleSpec(
    argument_spec={
        **key_info.REGISTRY_ARGUMENTS,
        "images": {"type": "list", "elements": "str", "default": [], "aliases": ["image"]},
    },
    run=key_info.run,
)


def main() -> None:
    run_module(SPEC)


if __name__ == "__main__":
    main()
