# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: Contributors to gpuops.nim
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations


class ModuleDocFragment:
    """Options that say which cluster to talk to, and as whom."""

    DOCUMENTATION = r"""
options:
  kubeconfig:
    description:
      - Path of a kubeconfig file, a list of paths separated by colons as in E(KUBECONFIG), or the content of one as a
        dictionary.
      - Without it E(KUBECONFIG) counts, then C(~/.kube/config), then the service account of the pod that the module
        runs in.
        This is the order of C(kubectl).
      - Can also be set by E(K8S_AUTH_KUBECONFIG).
    type: raw
  context:
    description:
      - Name of a context in the kubeconfig. Without it the kubeconfig's current context counts.
      - Can also be set by E(K8S_AUTH_CONTEXT).
    type: str
  host:
    description:
      - URL of the API server, such as C(https://203.0.113.5:6443). It replaces the kubeconfig's.
      - Together with O(api_key), with O(username) and O(password), or with O(client_cert) and O(client_key) no
        kubeconfig is read,
        unless O(kubeconfig) or O(context) is given.
      - Can also be set by E(K8S_AUTH_HOST).
    type: str
  api_key:
    description:
      - Token to log in with. It replaces the kubeconfig's login.
      - Can also be set by E(K8S_AUTH_API_KEY).
    type: str
  username:
    description:
      - User name for HTTP basic authentication. API servers have not known that since Kubernetes 1.19; proxies in
        front of them may.
      - Can also be set by E(K8S_AUTH_USERNAME).
    type: str
  password:
    description:
      - Password for HTTP basic authentication.
      - Can also be set by E(K8S_AUTH_PASSWORD).
    type: str
  validate_certs:
    description:
      - Whether to verify the API server's certificate. Without it the kubeconfig decides, and its default is to
        verify.
      - Can also be set by E(K8S_AUTH_VERIFY_SSL).
    type: bool
    aliases: [verify_ssl]
  ca_cert:
    description:
      - Path of a PEM file with the CA that signed the API server's certificate. It replaces the kubeconfig's.
        Without either the CAs of the system count.
      - Can also be set by E(K8S_AUTH_SSL_CA_CERT).
    type: path
    aliases: [ssl_ca_cert]
  client_cert:
    description:
      - Path of a PEM file with the certificate to log in with. It replaces the kubeconfig's.
      - Can also be set by E(K8S_AUTH_CERT_FILE).
    type: path
    aliases: [cert_file]
  client_key:
    description:
      - Path of a PEM file with the unencrypted key of O(client_cert).
      - Can also be set by E(K8S_AUTH_KEY_FILE).
    type: path
    aliases: [key_file]
  proxy:
    description:
      - URL of the HTTP proxy to go through. Without it the kubeconfig's counts, then E(HTTPS_PROXY) or E(HTTP_PROXY),
        as with C(kubectl).
      - Can also be set by E(K8S_AUTH_PROXY).
    type: str
  no_proxy:
    description:
      - Hosts, domains and networks to go to without the proxy, separated by commas. Without it E(NO_PROXY) counts.
      - Can also be set by E(K8S_AUTH_NO_PROXY).
    type: str
  proxy_headers:
    description:
      - What to tell the proxy.
    type: dict
    suboptions:
      proxy_basic_auth:
        description:
          - Login at the proxy, as C(user:password).
          - Can also be set by E(K8S_AUTH_PROXY_HEADERS_PROXY_BASIC_AUTH).
        type: str
      basic_auth:
        description:
          - Value for an C(Authorization) header, as C(user:password).
          - Can also be set by E(K8S_AUTH_PROXY_HEADERS_BASIC_AUTH).
        type: str
      user_agent:
        description:
          - Value for a C(User-Agent) header.
          - Can also be set by E(K8S_AUTH_PROXY_HEADERS_USER_AGENT).
        type: str
  persist_config:
    description:
      - Whether to write a token that had to be refreshed (OpenID Connect) back to the kubeconfig file. It isn't by
        default.
      - Can also be set by E(K8S_AUTH_PERSIST_CONFIG).
    type: bool
  impersonate_user:
    description:
      - User to act as. The login needs the right to impersonate.
      - Can also be set by E(K8S_AUTH_IMPERSONATE_USER).
    type: str
  impersonate_groups:
    description:
      - Groups to act as a member of, together with O(impersonate_user).
      - Can also be set by E(K8S_AUTH_IMPERSONATE_GROUPS), separated by commas.
    type: list
    elements: str
requirements:
  - kubernetes >= 31.0.0
notes:
  - The names of these options and variables are those of the C(kubernetes.core) modules, so that habits and
    C(module_defaults) carry over.
"""
