# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: Contributors to gpuops.nim
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
name: openpgp_key_mismatch
version_added: 0.1.0
short_description: Whether a file is the expected OpenPGP key and no other
description:
  - Says what is wrong with the content of a file, armored or binary, that should hold one public key. Whoever trusts a
    file of keys trusts each key in it, so a second one is wrong, too. Subkeys belong to their key.
  - Needs no gpg anywhere.
author:
  - Contributors to gpuops.nim (@gpuops)
positional: _input, wanted
options:
  _input:
    description: The content in base64, as M(ansible.builtin.slurp) returns it.
    type: str
    required: true
  wanted:
    description: The fingerprint of the key.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Refuse another key
  ansible.builtin.assert:
    that: not mismatch
    fail_msg: The key {{ mismatch }}.
  vars:
    mismatch: "{{ key.content | gpuops.nim.openpgp_key_mismatch('EB693B3035CD5710E231E123A4B469963BF863CC') }}"
"""

RETURN = r"""
_value:
  description: What is wrong, as the end of a sentence that begins with the key. Empty when it is the wanted one.
  type: str
  sample: >-
    has the fingerprint 610C7B14E068A878070DA4E99CD0A493D42D0685, and EB693B3035CD5710E231E123A4B469963BF863CC is wanted
"""

import base64
import typing as t

from ansible_collections.gpuops.nim.plugins.module_utils._host.openpgp import mismatch


def openpgp_key_mismatch(content: str, wanted: str) -> str:
    return mismatch(base64.b64decode(content), wanted)


class FilterModule:
    """Checks of repository keys."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"openpgp_key_mismatch": openpgp_key_mismatch}
