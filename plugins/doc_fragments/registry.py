# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: Contributors to gpuops.nim
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations


class ModuleDocFragment:
    """With which logins (the fragment itself) and on which way (``way``) registries and NGC are asked."""

    DOCUMENTATION = r"""
options:
  ngc_api_key:
    description:
      - The key from NVIDIA NGC, for C(nvcr.io). White space around it is removed. What can't be a key is refused
        before anything is sent.
      - Taken from the environment variable E(NGC_API_KEY) if not set. Without it, what anybody may pull is asked.
    type: str
  registries:
    description:
      - Logins of other registries, or of parts of one, as V(registry.example.com/team). The longest that fits counts,
        as in a docker configuration.
    type: list
    elements: dict
    default: []
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
"""

    WAY = r"""
options:
  registry_endpoints:
    description:
      - Names of registries, or C(api.ngc.nvidia.com) or C(authn.nvidia.com), and the URL where each is asked in place
        of its own name. This is what C(hosts.toml) does for containerd.
    type: dict
    default: {}
  registry_ca_cert:
    description:
      - PEM file with CAs that are trusted beside those of the system and of E(REQUESTS_CA_BUNDLE).
    type: path
  registry_proxy:
    description:
      - URL of the HTTP proxy to go through. Without it E(HTTPS_PROXY) and E(HTTP_PROXY) count. Hosts in E(NO_PROXY) are
        asked without it.
    type: str
  registry_timeout:
    description:
      - Seconds for one question, its repetitions included. What may pass in a moment (429, 5xx) is asked again within
        that time.
    type: float
    default: 10.0
requirements:
  - requests >= 2.28
"""
