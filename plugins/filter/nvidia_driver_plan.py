# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: Contributors to gpuops.nim
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
name: nvidia_driver_plan
version_added: 0.1.0
short_description: What to install on a host for an NVIDIA driver
description:
  - From what M(gpuops.nim.gpu_host_info) says of a host and what is wanted to repository, key, packages, holds and
    kernel headers. Decides nothing by network or by chance, so the same input has the same plan.
  - It is what the role P(gpuops.nim.nvidia_driver#role) installs by; the options mean what the role's variables mean.
author:
  - Contributors to gpuops.nim (@gpuops)
positional: _input
options:
  _input:
    description: The C(gpu_host) that M(gpuops.nim.gpu_host_info) returns.
    type: dict
    required: true
  source:
    description: Where the packages come from.
    type: str
    choices: [auto, cuda_repo, distribution, precompiled]
    default: auto
  branch:
    description: A driver branch, such as V(580); V(auto) is 580 where the source has it, else the oldest it has.
    type: str
    default: auto
  version:
    description: A full version, such as V(580.178.04); the newest of the branch without it.
    type: str
    default: ""
  flavour:
    description: The kernel modules. V(auto) is what the GPUs need, and open where both would do.
    type: str
    choices: [auto, open, proprietary]
    default: auto
  end_of_life:
    description: What a branch that NVIDIA no longer supports is.
    type: str
    choices: [fail, warn]
    default: fail
  region:
    description: Which of NVIDIA's servers.
    type: str
    choices: [global, china]
    default: global
  repository_url:
    description: A mirror, in place of NVIDIA's server or the distribution's archive.
    type: str
    default: ""
  key_url:
    description: Where the repository's key is; beside the repository without it.
    type: str
    default: ""
  key_fingerprint:
    description: Fingerprint of that key; the one that is known for NVIDIA's without it.
    type: str
    default: ""
  min_cuda:
    description: The version of CUDA that has to run, such as V(12.8).
    type: str
    default: ""
  mok_enrolled:
    description: Whether the key that modules are signed with on the host is enrolled for Secure Boot.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Say what would be installed
  ansible.builtin.debug:
    msg: "{{ host.gpu_host | gpuops.nim.nvidia_driver_plan(branch='595') }}"
"""

RETURN = r"""
_value:
  description:
    - The plan. C(problems) lists, in sentences, all that keeps the driver from being installed; then there is nothing
      else in it but C(warnings).
  type: dict
  sample:
    branch: "580"
    flavour: open
    module_stream: ""
    packages: [nvidia-driver-cuda, nvidia-persistenced, nvidia-kernel-open-dkms]
    pin: nvidia-driver-pinning-580
    problems: []
    source: cuda_repo
    system: Debian 12
    tested: resolved only
    warnings: []
"""

import datetime
import typing as t

from ansible.errors import AnsibleFilterError

from ansible_collections.gpuops.nim.plugins.module_utils._host.drivers_plan import Wanted, plan


def nvidia_driver_plan(host: dict[str, t.Any], **wanted: t.Any) -> dict[str, t.Any]:
    try:
        asked = Wanted(**{name: value if isinstance(value, bool) else str(value) for name, value in wanted.items()})
    except TypeError as error:
        raise AnsibleFilterError(f"nvidia_driver_plan: {error}") from None
    return plan(host, asked, datetime.date.today())


class FilterModule:
    """The resolver of the role nvidia_driver."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"nvidia_driver_plan": nvidia_driver_plan}
