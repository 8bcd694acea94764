# SPDX-License-Identifier: GPL-3.0-or-later
"""A host name of one's own with TLS, through a real ingress, from the certificate to an answer and away again."""

from __future__ import annotations

import json
import shlex

import pytest
import requests
import trustme

from rehearsal.layout import url
from rehearsal.standins.ngc import KEYS

pytestmark = pytest.mark.rehearsal

HTTPS = url("ingress-tls", "https")
PORT = HTTPS.rpartition(":")[2]
SMALL = {"cpu": "50m", "memory": "128Mi", "share_memory": "16Mi", "gpus": 0, "wait_timeout": 120}
LOCAL = {"labels": {"networking.kserve.io/visibility": "cluster-local"}}


@pytest.fixture(scope="module")
def space(play, new_namespace):
    """A namespace with the key, and with a certificate in the Secret `llama-tls`."""
    namespace = new_namespace("endpoint")
    play({"gpuops.nim.nim_secret": {"namespace": namespace}})
    return namespace


@pytest.fixture(scope="module")
def host(space):
    return f"llama.{space}.example.com"


@pytest.fixture(scope="module")
def ca(space, host, kubectl, tmp_path_factory):
    """The file of the CA that signed what is in the Secret `llama-tls`, which kubectl made."""
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    certificate = authority.issue_cert(host)
    certificate.private_key_pem.write_to_path(str(folder / "key.pem"))
    certificate.cert_chain_pems[0].write_to_path(str(folder / "cert.pem"))
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    files = f"--cert={folder}/cert.pem", f"--key={folder}/key.pem"
    kubectl("create", "secret", "tls", "llama-tls", "--namespace", space, *files)
    return str(folder / "ca.pem")


@pytest.fixture(scope="module")
def kserve(space):
    """A task with the service llama."""

    def kserve(**options):
        image = "nvcr.io/nim/meta/llama3-8b-instruct:1.0.0"
        return {"gpuops.nim.nim_kserve": {"namespace": space, "name": "llama", "image": image, **SMALL, **options}}

    return kserve


@pytest.fixture(scope="module")
def secured(kserve, host, ca):
    """The task that gives it the host and the certificate."""
    return kserve(endpoint_host=host, tls_secret="llama-tls", ingress_address=HTTPS)


@pytest.fixture(scope="module")
def rounds(play, secured, audit, space):
    """It is run in check mode, in earnest and again."""
    checked = play(secured, check=True)
    first = play(secured)
    with audit(space) as seen:
        second = play(secured)
    return checked.result, first.result, second.result, seen


@pytest.fixture
def deployed(play, secured, rounds):
    """It is up with TLS, whatever the test before left."""
    return play(secured).result["services"][0]


@pytest.fixture
def chat(space):
    def chat(**options):
        return {"gpuops.nim.nim_chat": {"namespace": space, "name": "llama", "address": HTTPS, **options}}

    return chat


def test_a_missing_secret_is_named_before_anything_is_written(play, kserve, host, audit, space, objects):
    task = kserve(endpoint_host=host, tls_secret="no-such", name="none")
    with audit(space) as seen:
        failed = play(task, fails=True).result
    assert f"there is no Secret no-such in namespace {space}" in failed["msg"]
    assert f"`kubectl create secret tls no-such --namespace {space} --cert=FILE --key=FILE`" in failed["msg"]
    assert host in failed["msg"]
    assert not seen.writes
    checked = play(task, check=True).result  # a task before it may have been about to make it
    assert any("no Secret no-such" in warning for warning in checked["warnings"])
    assert "none" not in objects("inferenceservice", space)


def test_a_secret_of_another_type_is_refused(play, kserve, host, audit, space):
    with audit(space) as seen:
        failed = play(kserve(endpoint_host=host, tls_secret="ngc-secret", name="none"), fails=True).result
    assert "is of type kubernetes.io/dockerconfigjson, not kubernetes.io/tls" in failed["msg"]
    assert not seen.writes


def test_check_then_once_then_nothing_to_do(rounds, host):
    checked, first, second, seen = rounds
    for result, changed, action in ((checked, True, "created"), (first, True, "created"), (second, False, "unchanged")):
        assert (result["changed"], result["services"][0]["action"]) == (changed, action)
        assert result["services"][0]["url"] == f"https://{host}:{PORT}"
    assert seen.requests
    assert not seen.writes


def test_the_answer_comes_by_https(play, chat, deployed, host, ca):
    given, found = play(chat(tls_ca=ca), chat(tls_ca=ca, address=HTTPS.removeprefix("https://"))).results
    for result in (given, found):
        assert result["answer"]
        assert (result["url"], result["host"]) == (f"{HTTPS}/v1/chat/completions", host)


def test_a_certificate_of_another_ca_is_refused_and_the_option_named(play, chat, deployed, tmp_path, host):
    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(str(other))
    for options in ({"tls_ca": str(other)}, {}):
        said = play(chat(**options), fails=True).result["msg"]
        assert "certificate verify failed" in said
        assert "`tls_ca`" in said
        assert host in said


def test_the_curl_line_works_as_it_is_though_nobody_resolves_the_name(run, deployed, ca, host):
    line = shlex.split(deployed["curl"])
    assert f"https://{host}:{PORT}/v1/chat/completions" in line
    assert '"choices"' in run(line[0], "--cacert", ca, *line[1:]).stdout


def test_plain_http_is_sent_on_to_https_and_kserves_own_host_is_as_before(deployed, host, space):
    def ask(name):
        return requests.get(f"{url('ingress')}/v1/models", headers={"Host": name}, allow_redirects=False, timeout=5)

    redirected = ask(host)
    assert redirected.status_code in (301, 308)
    assert redirected.headers["location"].startswith(f"https://{host}")
    assert ask(f"llama-{space}.example.com").status_code == 200


def test_without_tls_the_host_is_a_plain_one(play, kserve, chat, deployed, host):
    plain = play(kserve(endpoint_host=host, ingress_address=url("ingress"))).result
    assert plain["changed"]
    assert plain["services"][0]["action"] == "changed"
    assert plain["services"][0]["url"] == f"http://{host}"
    assert f"-H 'Host: {host}'" in plain["services"][0]["curl"]
    asked = play(chat(address=url("ingress").removeprefix("http://"))).result
    assert asked["answer"]
    assert asked["host"] == host


def test_no_way_in_but_the_host(play, kserve, secured, chat, deployed, host, ca, space, objects):
    options = {**secured["gpuops.nim.nim_kserve"], **LOCAL}
    late = play(kserve(**options)).result
    assert any(f"`kubectl delete ingress --namespace {space} llama`" in warning for warning in late["warnings"])
    early, again = play(kserve(state="absent"), kserve(**options), kserve(**options)).results[1:]
    assert (again["changed"], again.get("warnings", [])) == (False, [])
    service = early["services"][0]
    assert (service["state"], service["url"], service["host"]) == ("ready", f"https://{host}:{PORT}", host)
    assert play(chat(tls_ca=ca)).result["answer"]
    assert list(objects("ingress", space)) == ["llama-endpoint"]


def test_a_host_no_longer_given_goes(play, kserve, deployed, space, objects, audit):
    assert "llama-endpoint" in objects("ingress", space)
    checked = play(kserve(), check=True).result
    assert checked["changed"]
    assert "llama-endpoint" in objects("ingress", space)
    without = play(kserve()).result
    assert (without["changed"], without["services"][0]["action"]) == (True, "changed")
    assert without["services"][0]["url"] == f"http://llama-{space}.example.com"
    assert list(objects("ingress", space)) == ["llama"]
    assert not play(kserve()).result["changed"]


def test_what_others_called_like_it_is_left_alone(play, kserve, secured, apply, kubectl, space, rounds):
    play(kserve())  # takes ours away
    path = {"path": "/", "pathType": "Prefix", "backend": {"service": {"name": "x", "port": {"number": 80}}}}
    spec = {"rules": [{"host": "theirs.example.com", "http": {"paths": [path]}}]}
    metadata = {"name": "llama-endpoint", "namespace": space}
    apply({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": metadata, "spec": spec})
    try:
        assert "llama-endpoint exists and isn't ours" in play(secured, fails=True).result["msg"]
        assert not play(kserve()).result["changed"]
    finally:
        kubectl("delete", "ingress", "-n", space, "llama-endpoint")


def test_the_whole_line_by_https(run, deployed, host, ca, space, secured):
    options = {key: secured["gpuops.nim.nim_kserve"][key] for key in ("endpoint_host", "tls_secret", "ingress_address")}
    variables = {
        "nim_predictor_namespace": space,
        "nim_predictor_service_defaults": {**SMALL, **options},
        "nim_predictor_services": [{"name": "llama", "image": "nvcr.io/nim/meta/llama3-8b-instruct:1.0.0"}],
        "ngc_api_key": KEYS["valid"],
    }
    del variables["nim_predictor_service_defaults"]["wait_timeout"]  # for all services together
    site = ("ansible-playbook", "site.yml", "-e", json.dumps(variables))
    said = run(*site, env={"REQUESTS_CA_BUNDLE": ca}).stdout
    assert "failed=0" in said
    assert f"https://{host}:{PORT}/v1/chat/completions" in said
    assert "TLS is on, a login is missing" in said
    assert "put TLS" not in said


def test_it_goes_with_the_service(play, kserve, deployed, space, objects):
    gone = play(kserve(state="absent"), kserve(state="absent")).results
    assert [result["changed"] for result in gone] == [True, False]
    assert not objects("ingress", space)
