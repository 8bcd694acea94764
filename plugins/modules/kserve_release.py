#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: Contributors to gpuops.nim
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: kserve_release
version_added: 0.1.0
short_description: KServe on a cluster, in its Standard mode
description:
  - Installs KServe from its published manifests, upgrades it by one minor release, or removes it.
  - Of the manifests, what serves InferenceServices is used. LLMInferenceService and the local model cache are left out.
  - A KServe that this module did not install is left as it is.
  - The role C(gpuops.nim.kserve) downloads the manifests and calls this module.
author:
  - Contributors to gpuops.nim (@gpuops)
extends_documentation_fragment:
  - gpuops.nim.auth
  - gpuops.nim.attributes
  - gpuops.nim.attributes.action_group
requirements:
  - cryptography, with which ansible-core comes
  - PyYAML, with which the kubernetes library comes
options:
  state:
    description:
      - With V(absent) KServe is removed, if this module installed it and no InferenceService is left.
        Its namespace stays.
    type: str
    choices: [present, absent]
    default: present
  manifests:
    description:
      - Path of the file C(kserve.yaml) of a release of KServe. It says which release that is.
    type: path
    required: true
  upgrade:
    description:
      - Replace an older release that this module installed. Without it, that one stays, with a warning, for a newer
        KServe may write the Deployments of its services anew, and their pods on GPUs start again.
      - From one minor release to the next only.
    type: bool
    default: false
  image_registry:
    description:
      - Where images come from, with the paths that they have at their own registries, for example
        C(mirror.example.com/kserve-images). Empty for the registries that the manifests name.
    type: str
    default: ''
  image_pull_secrets:
    description: Secrets in the namespace C(kserve) with which the controller's images are pulled.
    type: list
    elements: str
    default: []
  certificates:
    description:
      - Who makes the certificate of KServe's webhook.
      - V(auto) is C(cert-manager) where the cluster has it, else V(self_signed). What is there stays.
      - V(self_signed) is made here, is valid for ten years, and is made anew in its last 180 days.
    type: str
    choices: [auto, cert_manager, self_signed]
    default: auto
  ingress_class:
    description:
      - Class of the Ingresses that KServe makes, for example V(nginx). Empty for KServe's own default, V(istio).
    type: str
    default: ''
  ingress_domain:
    description: Domain below which services get their host names. The default is KServe's.
    type: str
    default: example.com
  url_scheme:
    description: Scheme of the services' addresses.
    type: str
    choices: [http, https]
    default: http
  gateway:
    description:
      - A Gateway, as namespace/name. KServe then makes HTTPRoutes for it in place of Ingresses.
    type: str
    default: ''
  metrics_proxy:
    description:
      - Run C(kube-rbac-proxy) beside the controller, which lets Prometheus read the controller's metrics.
    type: bool
    default: true
  adopt:
    description:
      - Take over, or with O(state=absent) remove, a KServe that somebody else installed. It has to be the same release,
        or the one before with O(upgrade=true).
    type: bool
    default: false
  delete_inference_services:
    description:
      - With O(state=absent), remove all InferenceServices of the cluster first. Without it the task is refused while
        there are any, naming them.
    type: bool
    default: false
  wait_timeout:
    description:
      - Seconds until the controller has to run and its webhook has to answer, or until all is gone; 0 does not wait.
    type: int
    default: 300
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
    details: The key of a certificate is never shown.
  idempotent:
    support: full
seealso:
  - module: gpuops.nim.kserve_info
  - module: gpuops.nim.kube_apply
"""

EXAMPLES = r"""
- name: KServe from a file
  gpuops.nim.kserve_release:
    manifests: files/kserve-0.20.0.yaml
    ingress_class: nginx
    ingress_domain: models.example.com
"""

RETURN = r"""
kserve:
  description: What there is now. In check mode, what there was.
  returned: success
  type: dict
  contains:
    installed:
      description: Whether there is a KServe.
      type: bool
      sample: true
    managed:
      description: Whether this collection installed it.
      type: bool
      sample: true
    version:
      description: Its release; null where its controller is outside the cluster or its image's tag doesn't say.
      type: str
      sample: 0.20.0
    mode:
      description: How services are deployed that name no mode, V(Standard) or V(Knative), whatever KServe's older word.
      type: str
      sample: Standard
    namespace:
      description: Where its controller is.
      type: str
      sample: kserve
    available:
      description: Whether its controller runs. One outside the cluster is taken to do so.
      type: bool
      sample: true
    action:
      description:
        - V(installed), V(upgraded), V(changed), V(unchanged), V(removed), V(absent), or V(left) for one that is left as
          it is.
      type: str
      sample: installed
    certificates:
      description: Who makes the webhook's certificate, V(cert_manager) or V(self_signed); null where nothing was done.
      type: str
      sample: self_signed
objects:
  description: What became of each object.
  returned: always, unless nothing was sent
  type: list
  elements: dict
  sample: [{action: created, kind: Deployment, name: kserve-controller-manager, namespace: kserve}]
"""

from ansible_collections.gpuops.nim.plugins.module_utils._ansible import ModuleSpec, run_module
from ansible_collections.gpuops.nim.plugins.module_utils._kube.auth import AUTH_ARGUMENTS
from ansible_collections.gpuops.nim.plugins.module_utils._ops import kserve_release

SPEC = ModuleSpec(
    argument_spec={
        **AUTH_ARGUMENTS,
        "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        "manifests": {"type": "path", "required": True},
        "upgrade": {"type": "bool", "default": False},
        "image_registry": {"type": "str", "default": ""},
        "image_pull_secrets": {"type": "list", "elements": "str", "default": [], "no_log": False},
        "certificates": {"type": "str", "choices": ["auto", "cert_manager", "self_signed"], "default": "auto"},
        "ingress_class": {"type": "str", "default": ""},
        "ingress_domain": {"type": "str", "default": "example.com"},
        "url_scheme": {"type": "str", "choices": ["http", "https"], "default": "http"},
        "gateway": {"type": "str", "default": ""},
        "metrics_proxy": {"type": "bool", "default": True},
        "adopt": {"type": "bool", "default": False},
        "delete_inference_services": {"type": "bool", "default": False},
        "wait_timeout": {"type": "int", "default": 300},
    },
    run=kserve_release.run,
)


def main() -> None:
    run_module(SPEC)


if __name__ == "__main__":
    main()
