# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import base64
import json
import shutil
import ssl
import subprocess
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

from ansible_collections.gpuops.nim.plugins.doc_fragments import attributes as attributes_fragment
from ansible_collections.gpuops.nim.plugins.doc_fragments import auth as auth_fragment
from ansible_collections.gpuops.nim.plugins.module_utils._kube.auth import AUTH_ARGUMENTS, connect
from ansible_collections.gpuops.nim.plugins.module_utils._kube.errors import (
    ConfigError,
    KubeError,
    Unauthorized,
    Unreachable,
)
from ansible_collections.gpuops.nim.tests.unit.fake_apiserver import FakeApiServer

TOKEN = "token-that-nobody-may-see-0123456789"


def kubeconfig(server: str, cluster: Any = None, user: Any = None, context: str = "x") -> dict[str, Any]:
    return {
        "clusters": [{"name": "c", "cluster": {"server": server, **(cluster or {})}}],
        "users": [{"name": "u", "user": user if user is not None else {"token": TOKEN}}],
        "contexts": [{"name": context, "context": {"cluster": "c", "user": "u"}}],
        "current-context": context,
    }


def write(path: Path, content: Any) -> str:
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def sent(api: FakeApiServer, name: str = "Authorization") -> str | None:
    value: str | None = api.requests[-1].headers.get(name)
    return value


def refused(**params: Any) -> str:
    with pytest.raises(ConfigError) as stop:
        connect(params).server_version()
    assert TOKEN not in stop.value.message
    return stop.value.message


# where the cluster and the login come from


def test_a_kubeconfig_file_a_tilde_and_a_dictionary(api: FakeApiServer, tmp_path: Path) -> None:
    path = write(tmp_path / "kc", kubeconfig(api.url))
    for given in (path, "~/kc", kubeconfig(api.url)):
        connect({"kubeconfig": given}).server_version()
        assert sent(api) == f"Bearer {TOKEN}"


def test_the_usual_places(api: FakeApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / ".kube" / "config", kubeconfig(api.url, user={"token": "home"}))
    connect({}).server_version()
    assert sent(api) == "Bearer home"
    monkeypatch.setenv("KUBECONFIG", write(tmp_path / "other", kubeconfig(api.url, user={"token": "variable"})))
    connect({}).server_version()
    assert sent(api) == "Bearer variable"


def test_a_list_of_kubeconfigs_is_merged(api: FakeApiServer, tmp_path: Path) -> None:
    first = write(tmp_path / "1", {**kubeconfig(api.url), "contexts": [], "current-context": ""})
    second = write(tmp_path / "2", {**kubeconfig("http://not.used"), "clusters": []})
    connect({"kubeconfig": f"{tmp_path}/missing:{first}:{second}", "context": "x"}).server_version()


def test_the_environment_counts_through_the_argument_spec(
    api: FakeApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("K8S_AUTH_KUBECONFIG", write(tmp_path / "kc", kubeconfig("http://wrong.invalid")))
    monkeypatch.setenv("K8S_AUTH_HOST", api.url)
    monkeypatch.setenv("K8S_AUTH_IMPERSONATE_GROUPS", "a,b")
    monkeypatch.setenv("K8S_AUTH_PROXY_HEADERS_USER_AGENT", "agent")
    result = ArgumentSpecValidator(AUTH_ARGUMENTS).validate({"impersonate_user": "jane"})
    assert not result.error_messages
    assert result.validated_parameters["proxy_headers"]["user_agent"] == "agent"
    connect(result.validated_parameters).server_version()
    assert sent(api, "Impersonate-User") == "jane"
    assert api.requests[-1].headers.get_all("Impersonate-Group") == ["a", "b"]


def test_host_and_api_key_need_no_kubeconfig(api: FakeApiServer, tmp_path: Path) -> None:
    write(tmp_path / ".kube" / "config", "{ this is: [no kubeconfig")
    connect({"host": api.url, "api_key": f" {TOKEN}\n"}).server_version()
    assert sent(api) == f"Bearer {TOKEN}"
    connect({"host": api.url, "username": "jane", "password": "pw"}).server_version()
    assert sent(api) == "Basic " + base64.b64encode(b"jane:pw").decode()


def test_options_lie_over_the_kubeconfig(api: FakeApiServer, tmp_path: Path) -> None:
    path = write(tmp_path / "kc", kubeconfig("https://wrong.invalid"))
    connect({"kubeconfig": path, "host": api.url, "api_key": "mine"}).server_version()
    assert sent(api) == "Bearer mine"


def test_in_a_pod_its_service_account_is_used(
    api: FakeApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kubernetes.config import incluster_config

    token, ca = write(tmp_path / "token", TOKEN), write(tmp_path / "ca", certificate_authority(tmp_path).read_text())
    monkeypatch.setattr(incluster_config.load_incluster_config, "__defaults__", (None, True))
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", token)
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", ca)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    client = connect({})
    assert client._connection.host == "https://127.0.0.1:443"
    assert client._connection.source == "the pod's service account"
    assert client._connection.headers()["Authorization"].endswith(TOKEN)


def test_a_login_plugin_is_run_and_run_again_when_its_token_is_refused(api: FakeApiServer, tmp_path: Path) -> None:
    plugin = tmp_path / "plugin"
    plugin.write_text(
        "#!/bin/sh\nread -r TOKEN < " + str(tmp_path / "token") + "\n"
        'echo "{\\"apiVersion\\": \\"client.authentication.k8s.io/v1\\", \\"kind\\": \\"ExecCredential\\", '
        '\\"status\\": {\\"token\\": \\"$TOKEN\\"}}"\n'
    )
    plugin.chmod(0o755)
    entry = {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": str(plugin), "interactiveMode": "No"}}
    write(tmp_path / "token", "first\n")
    api.tokens = {"first"}
    client = connect({"kubeconfig": kubeconfig(api.url, user=entry)})
    client.server_version()
    api.tokens = {"second"}
    write(tmp_path / "token", "second\n")
    client.server_version()
    assert sent(api) == "Bearer second"


def test_proxy_and_no_proxy(api: FakeApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    params = {"host": "http://cluster.invalid:8080", "api_key": "k"}
    headers = {"proxy_basic_auth": "me:pw"}
    api.fault(path="", status=200, body=b'{"gitVersion": "through the proxy"}')
    assert connect({**params, "proxy": api.url, "proxy_headers": headers}).server_version() == "through the proxy"
    assert sent(api, "Host") == "cluster.invalid:8080"
    assert sent(api, "Proxy-Authorization") == "Basic " + base64.b64encode(b"me:pw").decode()
    api.fault(path="", status=200, body=b'{"gitVersion": "through the proxy"}')
    monkeypatch.setenv("http_proxy", api.url)
    assert connect(params).server_version() == "through the proxy"
    before = len(api.requests)
    with pytest.raises(Unreachable, match="name isn't known"):
        connect({**params, "no_proxy": "cluster.invalid"}).request("GET", "/version", retry=False)
    assert len(api.requests) == before


# what can be wrong with it


def test_no_cluster_at_all() -> None:
    assert "Give kubeconfig, or host with api_key" in refused()


def test_kubeconfig_missing_broken_incomplete(tmp_path: Path) -> None:
    assert "kubeconfig: there is no kubeconfig file /nope" in refused(kubeconfig="/nope")
    broken = write(tmp_path / "broken", f"users:\n- token: {TOKEN}\n  x: [\n")
    assert "isn't valid YAML (line 4)" in refused(kubeconfig=broken)
    assert "can't be read as a kubeconfig" in refused(kubeconfig=write(tmp_path / "text", f"just {TOKEN}"))
    nameless = kubeconfig("http://h")
    del nameless["users"][0]["name"]
    assert "isn't a complete kubeconfig" in refused(kubeconfig=nameless)
    assert "isn't a complete kubeconfig" in refused(kubeconfig=write(tmp_path / "nameless", nameless))
    clusterless = {**kubeconfig("http://h"), "clusters": []}
    assert "isn't a complete kubeconfig: c is missing in it" in refused(kubeconfig=clusterless)
    assert "dictionary" in refused(kubeconfig=["a"])


def test_context_unknown_or_missing(tmp_path: Path) -> None:
    path = write(tmp_path / "kc", kubeconfig("http://h"))
    assert refused(kubeconfig=path, context="y") == f"context: {path} has no context y; it has x."
    assert "choose one of its own: x" in refused(kubeconfig={**kubeconfig("http://h"), "current-context": ""})
    assert refused(context="y").startswith("context: there is no kubeconfig file")


def test_files_that_are_not_there(tmp_path: Path) -> None:
    assert refused(host="https://h", api_key="k", ca_cert="/nope") == "ca_cert: there is no file /nope."
    entry = {"client-certificate": "/nope.crt", "client-key": "/nope.key"}
    assert "names a file that isn't there: /nope.crt" in refused(kubeconfig=kubeconfig("https://h", user=entry))


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"host": "127.0.0.1:6443", "api_key": "k"}, "host: 127.0.0.1:6443 is no URL"),
        ({"host": "http://h", "client_cert": "/c"}, "client_cert and client_key"),
        ({"host": "http://h", "username": "u"}, "username and password"),
        ({"host": "http://h", "api_key": "k", "impersonate_groups": ["a"]}, "impersonate_user"),
        ({"host": "http://h", "api_key": f"{TOKEN}\n{TOKEN}"}, "line break"),
    ],
)
def test_options_that_cannot_work(params: dict[str, Any], said: str) -> None:
    assert said in refused(**params)


def test_a_login_plugin_that_fails_is_named_with_its_words(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    plugin = tmp_path / "login"
    plugin.write_text("#!/bin/sh\necho 'your session has ended' >&2\nexit 3\n")
    plugin.chmod(0o755)
    entry = {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": str(plugin)}}
    said = refused(kubeconfig=kubeconfig("http://h", user=entry))
    assert str(plugin) in said
    assert "your session has ended" in said
    assert capfd.readouterr().err == ""
    entry["exec"]["command"] = "no-such-login-plugin"
    assert "no-such-login-plugin" in refused(kubeconfig=kubeconfig("http://h", user=entry))


@pytest.mark.usefixtures("short_patience")
def test_an_address_where_nothing_listens(api: FakeApiServer) -> None:
    api.stop()
    with pytest.raises(Unreachable) as stop:
        connect({"host": api.url, "api_key": TOKEN}).server_version()
    assert f"{api.url} (option host) can't be reached: connection refused" in stop.value.message


def test_refused_credentials_say_where_they_came_from(api: FakeApiServer, tmp_path: Path) -> None:
    api.tokens = {"another"}
    path = write(tmp_path / "kc", kubeconfig(api.url))
    with pytest.raises(Unauthorized) as stop:
        connect({"kubeconfig": path, "context": "x"}).server_version()
    assert f"kubeconfig {path}, context x" in stop.value.message
    assert TOKEN not in stop.value.message


# TLS


def openssl(*args: str) -> None:
    subprocess.run(["openssl", *args], check=True, capture_output=True)


def certificate_authority(folder: Path) -> Path:
    openssl(
        *("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=ca"),
        *("-keyout", f"{folder}/ca.key", "-out", f"{folder}/ca.crt"),
        *("-addext", "keyUsage=critical,keyCertSign"),
    )
    return folder / "ca.crt"


def certificate(folder: Path, name: str, address: str = "IP:127.0.0.1", ended: bool = False) -> tuple[str, str]:
    """Certificate and key files. An expired one began and ended long ago (-days can't say so in every openssl)."""
    key, request, crt = f"{folder}/{name}.key", f"{folder}/{name}.csr", f"{folder}/{name}.crt"
    openssl("req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}", "-keyout", key, "-out", request)
    (folder / "index.txt").write_text("")
    (folder / "ext").write_text(f"subjectAltName={address}\n")
    (folder / "ca.cnf").write_text(
        f"[ca]\ndefault_ca=d\n[d]\ndatabase={folder}/index.txt\nrand_serial=yes\nnew_certs_dir={folder}\n"
        f"default_md=sha256\npolicy=p\nunique_subject=no\n[p]\ncommonName=supplied\n"
    )
    dates = ("-startdate", "20200101000000Z", "-enddate", "20210101000000Z") if ended else ("-days", "2")
    openssl(
        *("ca", "-batch", "-notext", "-config", f"{folder}/ca.cnf", "-extfile", f"{folder}/ext", *dates),
        *("-cert", f"{folder}/ca.crt", "-keyfile", f"{folder}/ca.key", "-in", request, "-out", crt),
    )
    return crt, key


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pki")
    certificate_authority(folder)
    certificate(folder, "server")
    certificate(folder, "elsewhere", "DNS:elsewhere.example.com")
    certificate(folder, "late", ended=True)
    certificate(folder, "jane")
    certificate(folder, "latejane", ended=True)
    (folder / "other").mkdir()
    certificate_authority(folder / "other")
    return folder


def tls_server(pki: Path, name: str, client_ca: bool = False) -> FakeApiServer:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pki / f"{name}.crt", pki / f"{name}.key")
    if client_ca:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(pki / "ca.crt")
    return FakeApiServer(context)


@pytest.fixture
def tls(pki: Path) -> Iterator[FakeApiServer]:
    with tls_server(pki, "server", client_ca=False) as fake:
        yield fake


def test_the_servers_certificate_is_verified(tls: FakeApiServer, pki: Path) -> None:
    params = {"host": tls.url, "api_key": TOKEN}
    connect({**params, "ca_cert": f"{pki}/ca.crt"}).server_version()
    assert "ca_cert: the certificate of https://127.0.0.1" in refused(**params, ca_cert=f"{pki}/other/ca.crt")
    assert "ca_cert" in refused(**params)
    assert "no PEM certificate" in refused(**params, ca_cert=f"{pki}/ca.key")
    assert TOKEN not in str([r.headers.as_string() for r in tls.requests[1:]])


def test_a_certificate_for_another_name_and_one_that_expired(pki: Path) -> None:
    for name, said in (("elsewhere", "isn't made out to that address"), ("late", "has expired")):
        with tls_server(pki, name) as api:
            assert said in refused(host=api.url, api_key=TOKEN, ca_cert=f"{pki}/ca.crt")


def test_a_server_name_of_the_kubeconfig_is_used(pki: Path) -> None:
    cluster = {"certificate-authority": f"{pki}/ca.crt", "tls-server-name": "elsewhere.example.com"}
    with tls_server(pki, "elsewhere") as api:
        connect({"kubeconfig": kubeconfig(api.url, cluster)}).server_version()


def test_validate_certs_false_is_silent_for_this_host_only(tls: FakeApiServer) -> None:
    import urllib3

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        connect({"host": tls.url, "api_key": TOKEN, "validate_certs": False}).server_version()
        assert caught == []
        urllib3.PoolManager(cert_reqs="CERT_NONE").request("GET", tls.url.replace("127.0.0.1", "localhost"))
        assert len(caught) == 1


def test_http_and_https_mixed_up(api: FakeApiServer, tls: FakeApiServer) -> None:
    assert "doesn't speak TLS" in refused(host=api.url.replace("http", "https"), api_key=TOKEN)


def test_client_certificates_work_and_leave_no_file(pki: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    inline = {
        f"client-{kind}-data": base64.b64encode((pki / f"jane.{end}").read_bytes()).decode()
        for kind, end in (("certificate", "crt"), ("key", "key"))
    }
    cluster = {"certificate-authority-data": base64.b64encode((pki / "ca.crt").read_bytes()).decode()}
    with tls_server(pki, "server", client_ca=True) as api:
        for _again in range(2):
            client = connect({"kubeconfig": kubeconfig(api.url, cluster, inline)})
            assert list(scratch.iterdir()) == []
            client.server_version()
        files = {"client_cert": f"{pki}/jane.crt", "client_key": f"{pki}/jane.key", "ca_cert": f"{pki}/ca.crt"}
        connect({"host": api.url, **files}).server_version()
        assert "no usable pair" in refused(host=api.url, **{**files, "client_key": f"{pki}/server.key"})


def test_an_expired_client_certificate_is_said_to_be(api: FakeApiServer, pki: Path) -> None:
    cluster = {"certificate-authority": f"{pki}/ca.crt"}
    entry = {"client-certificate": f"{pki}/latejane.crt", "client-key": f"{pki}/latejane.key"}
    with tls_server(pki, "server") as tls:
        tls.tokens = set()
        with pytest.raises(Unauthorized, match=r"client certificate expired on 2021-01-01 00:00 UTC"):
            connect({"kubeconfig": kubeconfig(tls.url, cluster, entry)}).server_version()
    with tls_server(pki, "server", client_ca=True) as tls, pytest.raises(KubeError, match=r"(?i)client.certificate"):
        connect({"kubeconfig": kubeconfig(tls.url, cluster, entry)}).request("GET", "/version", retry=False)


# documentation


def documented(fragment: Any, name: str = "DOCUMENTATION") -> dict[str, Any]:
    parsed: dict[str, Any] = yaml.safe_load(getattr(fragment.ModuleDocFragment, name))
    return parsed


def test_the_documentation_is_that_of_the_arguments() -> None:
    def compare(options: dict[str, Any], arguments: dict[str, Any]) -> None:
        assert options.keys() == arguments.keys()
        for name, option in options.items():
            argument = arguments[name]
            for key in ("type", "elements", "aliases", "default"):
                assert option.get(key) == argument.get(key), (name, key)
            variable = argument["fallback"][1][0] if "fallback" in argument else None
            assert not variable or f"E({variable})" in " ".join(option["description"]), name
            compare(option.get("suboptions", {}), argument.get("options", {}))

    compare(documented(auth_fragment)["options"], AUTH_ARGUMENTS)


def test_attributes_are_complete() -> None:
    assert documented(attributes_fragment)["attributes"].keys() == {"check_mode", "diff_mode", "idempotent"}
    group = documented(attributes_fragment, "ACTION_GROUP")["attributes"]["action_group"]
    assert group["membership"] == ["gpuops.nim.nim"]


def test_openssl_is_there() -> None:
    assert shutil.which("openssl"), "the tests of TLS need the openssl program"
