# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""Options, environment, kubeconfig or service account -> a Client. Names and variables are those of kubernetes.core."""

from __future__ import annotations

import base64
import contextlib
import datetime
import logging
import os
import re
import shutil
import ssl
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

from ansible.module_utils.basic import env_fallback

from .client import CONNECTIONS, Client, Connection
from .errors import ConfigError


def _env(name: str) -> tuple[Any, list[str]]:
    return (env_fallback, [f"K8S_AUTH_{name}"])


AUTH_ARGUMENTS: dict[str, dict[str, Any]] = {
    "kubeconfig": {"type": "raw", "fallback": _env("KUBECONFIG")},
    "context": {"type": "str", "fallback": _env("CONTEXT")},
    "host": {"type": "str", "fallback": _env("HOST")},
    "api_key": {"type": "str", "no_log": True, "fallback": _env("API_KEY")},
    "username": {"type": "str", "fallback": _env("USERNAME")},
    "password": {"type": "str", "no_log": True, "fallback": _env("PASSWORD")},
    "validate_certs": {"type": "bool", "aliases": ["verify_ssl"], "fallback": _env("VERIFY_SSL")},
    "ca_cert": {"type": "path", "aliases": ["ssl_ca_cert"], "fallback": _env("SSL_CA_CERT")},
    "client_cert": {"type": "path", "aliases": ["cert_file"], "fallback": _env("CERT_FILE")},
    "client_key": {"type": "path", "aliases": ["key_file"], "no_log": False, "fallback": _env("KEY_FILE")},
    "proxy": {"type": "str", "fallback": _env("PROXY")},
    "no_proxy": {"type": "str", "fallback": _env("NO_PROXY")},
    "proxy_headers": {
        "type": "dict",
        "apply_defaults": True,  # so that its variables count when the option isn't given
        "options": {
            "proxy_basic_auth": {"type": "str", "no_log": True, "fallback": _env("PROXY_HEADERS_PROXY_BASIC_AUTH")},
            "basic_auth": {"type": "str", "no_log": True, "fallback": _env("PROXY_HEADERS_BASIC_AUTH")},
            "user_agent": {"type": "str", "fallback": _env("PROXY_HEADERS_USER_AGENT")},
        },
    },
    "persist_config": {"type": "bool", "fallback": _env("PERSIST_CONFIG")},
    "impersonate_user": {"type": "str", "fallback": _env("IMPERSONATE_USER")},
    "impersonate_groups": {"type": "list", "elements": "str", "fallback": _env("IMPERSONATE_GROUPS")},
}


def connect(params: Mapping[str, Any], patience: float | None = None) -> Client:
    """A Client for the validated ``params``. Reads files, runs exec plugins, sends nothing. Raises ConfigError."""
    wanted = {name: params.get(name) for name in AUTH_ARGUMENTS}
    return Client(lambda: _open(wanted), patience)


def _open(params: Mapping[str, Any]) -> Connection:
    from kubernetes.client import Configuration
    from kubernetes.client.rest import RESTClientObject
    from urllib3._collections import HTTPHeaderDict

    _check(params)
    configuration = type.__call__(Configuration)  # past a process-wide default that somebody may have set
    folder = tempfile.mkdtemp(prefix="gpuops-nim-")  # for the kubeconfig's inline certificates and keys
    try:
        source = _load(params, configuration, folder)
        _lay_over(params, configuration)
        configuration.connection_pool_maxsize = CONNECTIONS
        pool = RESTClientObject(configuration).pool_manager
        if configuration.host.startswith("https://"):
            # one context for all connections, so that the key needn't stay in a file
            pool.connection_pool_kw["ssl_context"] = _tls(configuration)
            for name in ("ca_certs", "ca_cert_data", "cert_file", "key_file"):
                pool.connection_pool_kw.pop(name, None)
        expired = _expired(configuration)
    finally:
        _forget(folder)
    own = _own_login(params)
    fixed = [("Impersonate-User", params["impersonate_user"])] if params["impersonate_user"] else []
    fixed += [("Impersonate-Group", group) for group in params["impersonate_groups"] or ()]

    def headers() -> Any:
        made = HTTPHeaderDict()
        for name, value in [("Authorization", own or _login(configuration)), *fixed]:
            if value:
                made.add(name, _header_value(name, value, source))
        return made

    return Connection(configuration.host.rstrip("/"), source, pool, headers, expired)


def _check(params: Mapping[str, Any]) -> None:
    host = params["host"]
    if host and not re.match(r"https?://[^/]", host):
        raise ConfigError(f"host: {host} is no URL; write it as https://name:port.")
    if bool(params["client_cert"]) != bool(params["client_key"]):
        raise ConfigError("client_cert and client_key belong together: give both or neither.")
    if bool(params["username"]) != bool(params["password"]):
        raise ConfigError("username and password belong together: give both or neither.")
    if params["impersonate_groups"] and not params["impersonate_user"]:
        raise ConfigError("impersonate_groups: the API server wants impersonate_user with it.")
    for name in ("ca_cert", "client_cert", "client_key"):
        if params[name] and not os.path.isfile(os.path.expanduser(params[name])):
            raise ConfigError(f"{name}: there is no file {params[name]}.")


# where the cluster and the login come from


def _load(params: Mapping[str, Any], configuration: Any, folder: str) -> str:
    """Fills the configuration and says from where."""
    from kubernetes.config import ConfigException, load_incluster_config

    kubeconfig, context = params["kubeconfig"], params["context"]
    certificate = params["client_cert"] and params["client_key"]
    enough = params["host"] and (params["api_key"] or params["username"] or certificate)
    if enough and not kubeconfig and not context:
        return "option host"
    if isinstance(kubeconfig, Mapping):
        return _load_kubeconfig(params, dict(kubeconfig), "given as a dictionary", configuration, folder)
    if kubeconfig is not None and not isinstance(kubeconfig, str):
        raise ConfigError(f"kubeconfig: {type(kubeconfig).__name__} given; give a path or a dictionary.")
    paths = kubeconfig or os.environ.get("KUBECONFIG") or "~/.kube/config"
    found = [p for p in (os.path.expanduser(p) for p in paths.split(os.pathsep)) if p and os.path.isfile(p)]
    if found:
        return _load_kubeconfig(params, os.pathsep.join(found), ", ".join(found), configuration, folder)
    if kubeconfig or context:
        option = "kubeconfig" if kubeconfig else "context"
        raise ConfigError(f"{option}: there is no kubeconfig file {paths}. Give the path of one that exists.")
    try:
        load_incluster_config(client_configuration=configuration)
        return "the pod's service account"
    except (ConfigException, OSError):
        pass
    if params["host"]:
        return "option host"
    raise ConfigError(
        f"No cluster to talk to: there is no kubeconfig at {paths}, and this isn't a pod. "
        "Give kubeconfig, or host with api_key (or K8S_AUTH_KUBECONFIG, K8S_AUTH_HOST, K8S_AUTH_API_KEY)."
    )


def _load_kubeconfig(params: Mapping[str, Any], content: Any, named: str, configuration: Any, folder: str) -> str:
    import yaml
    from kubernetes.config import ConfigException, load_kube_config, load_kube_config_from_dict

    context = params["context"]
    common = {
        "context": context,
        "client_configuration": configuration,
        "persist_config": bool(params["persist_config"]),
        "temp_file_path": folder,
    }
    try:
        with _said() as said:
            if isinstance(content, str):
                load_kube_config(config_file=content, **common)
            else:
                load_kube_config_from_dict(config_dict=content, **common)
        found = bool(configuration.api_key or configuration.cert_file)
        plugin = None if found else _login_plugin(content, context)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)  # no more of the error: it quotes the file
        line = mark.line + 1 if mark else "?"
        raise ConfigError(f"kubeconfig: {named} isn't valid YAML (line {line}).") from None
    except ConfigException as error:
        raise _unusable(content, named, context, str(error)) from None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        # the library's own texts may quote the file, and with it a token
        raise ConfigError(f"kubeconfig: {named} can't be read as a kubeconfig ({type(error).__name__}).") from None
    if plugin:
        raise ConfigError(
            f"kubeconfig: the login plugin {plugin} of {named} gave no credentials: "
            f"{said[0] if said else 'it said nothing'}. Run it by hand to see why."
        )
    return f"kubeconfig {named}, {f'context {context}' if context else 'current context'}"


def _login_plugin(content: Any, context: str | None) -> str | None:
    current, contexts, users = _entries(content)
    user = users.get(contexts.get(context or current, {}).get("user")) or {}
    return (user.get("exec") or {}).get("command")


def _entries(content: Any) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Current context, contexts and users by name, of a dictionary or of the files that a path list names."""
    import yaml

    documents = [content]
    if isinstance(content, str):
        documents = []
        for path in content.split(os.pathsep):
            with open(path) as stream:
                documents.append(yaml.safe_load(stream) or {})
    contexts: dict[str, Any] = {}
    users: dict[str, Any] = {}
    current = ""
    for document in documents:
        current = document.get("current-context") or current
        for entry in document.get("contexts") or ():
            contexts.setdefault(entry.get("name"), entry.get("context") or {})
        for entry in document.get("users") or ():
            users.setdefault(entry.get("name"), entry.get("user") or {})

    return current, contexts, users


def _unusable(content: Any, named: str, context: str | None, said: str) -> ConfigError:
    try:
        current, contexts, _users = _entries(content)
    except (OSError, AttributeError, TypeError):
        return ConfigError(f"kubeconfig: {named} isn't a complete kubeconfig.")
    names = ", ".join(sorted(contexts)) or "none"
    if context and context not in contexts:
        return ConfigError(f"context: {named} has no context {context}; it has {names}.")
    if not context and current not in contexts:
        return ConfigError(f"context: {named} has no current context; choose one of its own: {names}.")
    if said.startswith("File does not exist"):
        return ConfigError(f"kubeconfig: {named} names a file that isn't there: {said.partition(': ')[2]}.")
    missing = re.search(r"Expected key (\S+) in|Expected object with name (\S+) in", said)
    what = f": {missing[1] or missing[2]} is missing in it" if missing else ""
    return ConfigError(f"kubeconfig: {named} isn't a complete kubeconfig{what}.")


@contextlib.contextmanager
def _said() -> Iterator[list[str]]:
    """What the library logs meanwhile: it only logs when a login plugin fails, and on the root logger."""
    texts: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            texts.append(record.getMessage())

    handler = Keep()
    logging.getLogger().addHandler(handler)
    try:
        yield texts
    finally:
        logging.getLogger().removeHandler(handler)


def _forget(folder: str) -> None:
    """Removes the temporary files now: a worker of Ansible ends without the library's atexit."""
    from kubernetes.config import kube_config

    cache = getattr(kube_config, "_temp_files", {})  # it would hand out the removed files again
    for content in [c for c, path in cache.items() if str(path).startswith(folder)]:
        cache.pop(content, None)
    shutil.rmtree(folder, ignore_errors=True)


# options laid over it


def _lay_over(params: Mapping[str, Any], configuration: Any) -> None:
    from urllib.request import getproxies

    from urllib3.util import make_headers

    for option, name in (
        ("host", "host"),
        ("validate_certs", "verify_ssl"),
        ("ca_cert", "ssl_ca_cert"),
        ("client_cert", "cert_file"),
        ("client_key", "key_file"),
        ("proxy", "proxy"),
        ("no_proxy", "no_proxy"),
    ):
        value = params[option]
        if value is not None:
            is_path = AUTH_ARGUMENTS[option]["type"] == "path"
            setattr(configuration, name, os.path.expanduser(value) if is_path else value)
    if not re.match(r"https?://[^/]", configuration.host):
        raise ConfigError(f"kubeconfig: the server {configuration.host} is no URL; write it as https://name:port.")
    if not configuration.proxy:  # not every version of the library looks there, kubectl does
        found = getproxies()
        configuration.proxy = found.get(configuration.host.partition(":")[0]) or found.get("all")
        configuration.no_proxy = configuration.no_proxy or found.get("no")
    extra = {name: value for name, value in (params["proxy_headers"] or {}).items() if value}
    if extra:
        configuration.proxy_headers = make_headers(**extra)
    if not configuration.verify_ssl:
        name = re.escape(re.sub(r"https?://|[:/].*", "", configuration.host))
        warnings.filterwarnings("ignore", f"Unverified HTTPS request is being made to host '{name}'")


def _tls(configuration: Any) -> ssl.SSLContext:
    from urllib3.util.ssl_ import create_urllib3_context

    required = ssl.CERT_REQUIRED if configuration.verify_ssl else ssl.CERT_NONE
    context = create_urllib3_context(cert_reqs=required)
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT  # as kubectl: many clusters' CAs state no key usage
    try:
        if not configuration.verify_ssl:
            pass
        elif configuration.ssl_ca_cert:
            context.load_verify_locations(configuration.ssl_ca_cert)
        else:
            context.load_default_certs()
    except OSError:
        raise ConfigError("ca_cert: the file, or the kubeconfig's entry, holds no PEM certificate.") from None
    if configuration.cert_file:
        try:
            context.load_cert_chain(configuration.cert_file, configuration.key_file or None, password="")
        except (OSError, ValueError):
            raise ConfigError(
                "client_cert, client_key: no usable pair; both must be PEM, belong together, and the key unencrypted."
            ) from None
    return context


# the login


def _own_login(params: Mapping[str, Any]) -> str | None:
    if params["api_key"]:
        return f"Bearer {params['api_key'].strip()}"
    if params["username"]:
        return "Basic " + base64.b64encode(f"{params['username']}:{params['password']}".encode()).decode()
    return None


def _login(configuration: Any) -> str | None:
    """The Authorization header of kubeconfig or service account; refreshes a token about to expire."""
    from kubernetes.config import ConfigException

    try:
        for setting in configuration.auth_settings().values():
            if setting["in"] == "header" and setting["value"]:
                return str(setting["value"]).strip()
    except (ConfigException, OSError):
        raise ConfigError("The login's token can't be read again; is its file or plugin still there?") from None
    return None


def _header_value(name: str, value: str, source: str) -> str:
    if not value.isascii() or not value.isprintable():  # http.client's own error would print it
        what = "token" if name == "Authorization" else name
        raise ConfigError(f"The {what} ({source}) holds a line break or another character that can't be sent.")
    return value


_VALIDITY = re.compile(rb"(?:\x17\x0d\d{12}Z|\x18\x0f\d{14}Z)(?:\x17\x0d(\d{12})Z|\x18\x0f(\d{14})Z)")


def _expired(configuration: Any) -> str:
    ends = _expiry(configuration.cert_file)
    if ends and ends < datetime.datetime.now(datetime.timezone.utc):
        return f"The client certificate expired on {ends:%Y-%m-%d %H:%M} UTC: get a new kubeconfig or certificate."
    return ""


def _expiry(path: str | None) -> datetime.datetime | None:
    """notAfter of the first certificate in a PEM file; the standard library can't say it of a certificate of ours."""
    if not path:
        return None
    try:
        with open(path) as stream:
            begin, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
            pem = stream.read().partition(begin)[2].partition(end)[0]
        match = _VALIDITY.search(base64.b64decode(pem))
    except (OSError, ValueError):
        return None
    if not match:
        return None
    text = (match[1] or match[2]).decode()
    return datetime.datetime.strptime(text if match[2] else _century(text), "%Y%m%d%H%M%S").replace(
        tzinfo=datetime.timezone.utc
    )


def _century(text: str) -> str:
    return ("20" if int(text[:2]) < 50 else "19") + text
