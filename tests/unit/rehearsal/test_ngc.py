# SPDX-License-Identifier: GPL-3.0-or-later
"""The ngc stand-in as containerd, docker, NIM and our own key checks see it."""

from __future__ import annotations

import base64
import io
import json
import os
import subprocess
import tarfile
import time
from pathlib import Path
from urllib.parse import urlencode

import pytest

from ansible_collections.gpuops.nim.tests.unit.standins import Ngc, program, publisher
from rehearsal.__main__ import main as command_line
from rehearsal.layout import Layout
from rehearsal.standins import ngc

REPOSITORY = "nim/meta/llama3-8b-instruct"
SCOPE = f"scope=repository:{REPOSITORY}:pull&service=registry"
FILES = "/v2/org/nim/team/meta/models/llama3-8b-instruct/hf/files"
WRONG = "nvapi-nobody-ever-issued-this-one-0123456789"


def basic(key: str, user: str = ngc.USERNAME) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{key}".encode()).decode()}


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.mark.parametrize(
    ("kind", "status"),
    [("valid", 200), ("second", 200), ("blocked", 200), ("expired", 401), ("unentitled", 402), ("denied", 403)],
)
def test_a_registry_token_is_given_as_the_key_deserves(ngc_server: Ngc, kind: str, status: int) -> None:
    answer = ngc_server.ask(f"/proxy_auth?{SCOPE}", basic(ngc.KEYS[kind]))
    assert answer.status == status
    assert ("token" in json.loads(answer.body)) == (status == 200)


def test_nobody_and_strangers_get_no_token(ngc_server: Ngc) -> None:
    assert ngc_server.ask(f"/proxy_auth?{SCOPE}").status == 401
    assert ngc_server.ask(f"/proxy_auth?{SCOPE}", basic(WRONG)).status == 401
    assert ngc_server.ask(f"/proxy_auth?{SCOPE}", basic(ngc.KEYS["valid"], "somebody")).status == 401


def test_the_oauth_post_of_containerd_is_refused(ngc_server: Ngc) -> None:
    form = urlencode({"grant_type": "password", "username": ngc.USERNAME, "password": ngc.KEYS["valid"]}).encode()
    assert ngc_server.ask("/proxy_auth", data=form).status == 405


def test_a_public_repository_needs_no_key_and_no_entitlement(ngc_server: Ngc) -> None:
    with ngc.editing(ngc_server.control) as state:
        state.public.append(REPOSITORY)
    assert ngc_server.ask(f"/proxy_auth?{SCOPE}").status == 200
    assert ngc_server.ask(f"/proxy_auth?{SCOPE}", basic(ngc.KEYS["unentitled"])).status == 200
    assert ngc_server.ask(f"/proxy_auth?{SCOPE}", basic(WRONG)).status == 401
    assert ngc_server.ask(FILES).status == 200
    assert ngc_server.ask("/proxy_auth?scope=repository:nim/meta/other:pull").status == 401


def test_caller_info_tells_the_kinds_of_keys_apart(ngc_server: Ngc) -> None:
    def ask(key: str) -> tuple[int, str]:
        form = urlencode({"credentials": key}).encode()
        answer = ngc_server.ask("/v3/keys/get-caller-info", bearer(key), form)
        return answer.status, answer.body.decode()

    status, body = ask(ngc.KEYS["valid"])
    assert status == 200
    assert json.loads(body)["type"] == "PERSONAL_KEY"
    assert "artifact-catalog" in body
    assert "NVIDIA_AI_ENTERPRISE_VIEWER" in body
    assert "artifact-catalog" not in ask(ngc.KEYS["denied"])[1]
    assert "NVIDIA_AI_ENTERPRISE_VIEWER" not in ask(ngc.KEYS["unentitled"])[1]
    assert ask(ngc.KEYS["expired"])[0] == 401
    assert ask(WRONG)[0] == 401


def test_org_and_authn(ngc_server: Ngc) -> None:
    key = ngc.KEYS["valid"]
    assert ngc_server.ask("/v2/org", bearer(key)).status == 200
    assert ngc_server.ask("/v2/org", bearer(WRONG)).status == 401
    for headers in ({"Authorization": f"ApiKey {key}"}, basic(key)):
        token = json.loads(ngc_server.ask("/token?service=ngc", headers).body)["token"]
        assert ngc_server.ask("/v2/org", bearer(token)).status == 200
    assert ngc_server.ask("/token?service=ngc", basic(ngc.KEYS["expired"])).status == 401


@pytest.mark.parametrize(
    ("kind", "status"), [("valid", 200), ("expired", 401), ("unentitled", 402), ("denied", 403), ("blocked", 451)]
)
def test_the_file_list_of_a_model(ngc_server: Ngc, kind: str, status: int) -> None:
    assert ngc_server.ask(FILES, bearer(ngc.KEYS[kind])).status == status


def test_a_model_has_the_size_that_was_set_and_downloads_resume(ngc_server: Ngc) -> None:
    key = bearer(ngc.KEYS["valid"])
    files = json.loads(ngc_server.ask(FILES, key).body)["modelFiles"]
    assert abs(sum(file["sizeInBytes"] for file in files) - (1 << 20)) < 2
    path, size = files[0]["path"], files[0]["sizeInBytes"]
    assert len(ngc_server.ask(f"{FILES}/{path}", key).body) == size
    rest = ngc_server.ask(f"{FILES}/{path}", {**key, "Range": "bytes=100-"})
    assert (rest.status, len(rest.body)) == (206, size - 100)
    assert ngc_server.ask(f"{FILES}/nothing", key).status == 404


def test_a_download_takes_as_long_as_its_rate_says(ngc_server: Ngc) -> None:
    with ngc.editing(ngc_server.control) as state:
        state.download_rate = 100_000
    begun = time.monotonic()
    ngc_server.ask(f"{FILES}/tokenizer_config.json", bearer(ngc.KEYS["valid"]))  # 50977 bytes
    assert time.monotonic() - begun > 0.4


def test_a_counted_fault_passes(ngc_server: Ngc) -> None:
    ngc.set_fault(ngc_server.control, "org", ngc.Fault(status=429, retry_after=7, count=2))
    key = bearer(ngc.KEYS["valid"])
    first, second, third = (ngc_server.ask("/v2/org", key) for _ in range(3))
    assert (first.status, second.status, third.status) == (429, 429, 200)
    assert first.headers["Retry-After"] == "7"
    assert not ngc.load(ngc_server.control).faults


def test_a_fault_on_a_wider_name_leaves_others_alone(ngc_server: Ngc) -> None:
    ngc.set_fault(ngc_server.control, "registry", ngc.Fault(status=503))
    assert ngc_server.ask(f"/proxy_auth?{SCOPE}", basic(ngc.KEYS["valid"])).status == 503
    assert ngc_server.ask("/v2/org", bearer(ngc.KEYS["valid"])).status == 200
    ngc.clear(ngc_server.control)
    assert ngc_server.ask(f"/proxy_auth?{SCOPE}", basic(ngc.KEYS["valid"])).status == 200
    with pytest.raises(ValueError, match="no such target"):
        ngc.set_fault(ngc_server.control, "regsitry", ngc.Fault(status=503))


def test_a_hanging_request_is_dropped_when_the_fault_is_cleared(ngc_server: Ngc) -> None:
    ngc.set_fault(ngc_server.control, "org", ngc.Fault(hang=True))
    with subprocess.Popen(
        ["curl", "-sS", "--cacert", str(ngc_server.ca), ngc_server.url + "/v2/org"], stderr=subprocess.DEVNULL
    ) as curl:
        with pytest.raises(subprocess.TimeoutExpired):
            curl.wait(0.7)
        assert ngc_server.ask("/token").status == 401  # others are served meanwhile
        ngc.clear(ngc_server.control, "org")
        assert curl.wait(3) != 0


def test_no_key_is_ever_logged(ngc_server: Ngc) -> None:
    key = ngc.KEYS["valid"]
    ngc_server.ask(f"/proxy_auth?{SCOPE}&account={key}", basic(key))
    ngc_server.ask("/v3/keys/get-caller-info", bearer(key), urlencode({"credentials": key}).encode())
    ngc_server.ask(FILES, bearer(WRONG))
    time.sleep(0.05)
    log = "".join(ngc_server.log)
    assert "/proxy_auth 200 key=valid" in log
    assert "401 key=unknown" in log
    for secret in (key, WRONG, base64.b64encode(f"{ngc.USERNAME}:{key}".encode()).decode()):
        assert secret not in log


# --- with the real registry behind it and a real client in front
def crane(home: Path, server: Ngc, key: str | None, *arguments: str) -> subprocess.CompletedProcess[str]:
    auths = {server.url.removeprefix("https://"): {"auth": basic(key)["Authorization"].split()[1]}} if key else {}
    (home / "config.json").write_text(json.dumps({"auths": auths}))
    environment = {**os.environ, "DOCKER_CONFIG": str(home), "SSL_CERT_FILE": str(server.ca)}
    return subprocess.run([program("crane"), *arguments], env=environment, capture_output=True, text=True, timeout=20)


@pytest.fixture
def image(ngc_server: Ngc, registry: str, tmp_path: Path) -> str:
    """A small image, pushed by the publisher."""
    content = os.urandom(300_000)
    with tarfile.open(tmp_path / "layer.tar", "w") as layer:
        member = tarfile.TarInfo("file")
        member.size = len(content)
        layer.addfile(member, io.BytesIO(content))
    name = f"{registry}/{REPOSITORY}:1.0.0"
    done = crane(tmp_path, ngc_server, ngc.KEYS["publisher"], "append", "-f", str(tmp_path / "layer.tar"), "-t", name)
    assert done.returncode == 0, done.stderr
    return name


def test_the_registry_serves_each_key_as_it_deserves(ngc_server: Ngc, image: str, tmp_path: Path) -> None:
    def pull(key: str | None) -> str:
        target = tmp_path / "image.tar"
        target.unlink(missing_ok=True)
        done = crane(tmp_path, ngc_server, key, "pull", image, str(target))
        assert target.exists() == (done.returncode == 0)
        return done.stderr

    assert pull(ngc.KEYS["valid"]) == ""
    assert (tmp_path / "image.tar").stat().st_size > 300_000
    for key, status in (
        (None, "UNAUTHORIZED: authentication required"),
        (WRONG, "UNAUTHORIZED: authentication required"),
        (ngc.KEYS["expired"], "UNAUTHORIZED: authentication required"),
        (ngc.KEYS["unentitled"], "PAYMENT_REQUIRED"),
        (ngc.KEYS["denied"], "DENIED: Access Denied"),
        (ngc.KEYS["blocked"], "UNAVAILABLE_FOR_LEGAL_REASONS"),
    ):
        assert status in pull(key)


def test_only_the_publisher_pushes_and_a_missing_tag_is_a_404(ngc_server: Ngc, image: str, tmp_path: Path) -> None:
    valid = ngc.KEYS["valid"]
    done = crane(tmp_path, ngc_server, valid, "append", "-f", str(tmp_path / "layer.tar"), "-t", f"{image}-mine")
    assert done.returncode != 0
    assert "UNAUTHORIZED" in done.stderr
    assert "MANIFEST_UNKNOWN" in crane(tmp_path, ngc_server, valid, "manifest", f"{image}-mine").stderr
    tags = crane(tmp_path, ngc_server, valid, "ls", image.rpartition(":")[0]).stdout.split()
    assert "1.0.0" in tags
    assert "1.0.0-mine" not in tags


def test_the_registry_can_be_slow_and_broken(ngc_server: Ngc, image: str, tmp_path: Path) -> None:
    valid = ngc.KEYS["valid"]
    ngc.set_fault(ngc_server.control, "blob", ngc.Fault(rate=400_000))
    begun = time.monotonic()
    assert crane(tmp_path, ngc_server, valid, "pull", image, str(tmp_path / "image.tar")).returncode == 0
    assert time.monotonic() - begun > 0.6
    ngc.clear(ngc_server.control)
    ngc.set_fault(ngc_server.control, "manifest", ngc.Fault(status=429))
    assert ngc_server.ask(f"/v2/{REPOSITORY}/manifests/1.0.0").status == 429
    assert ngc_server.ask(f"/v2/{REPOSITORY}/tags/list").status == 401


# --- what keys and faults came later
def test_service_keys_say_so_and_legacy_keys_become_tokens_first(ngc_server: Ngc) -> None:
    def caller_info(key: str) -> tuple[int, dict[str, object]]:
        answer = ngc_server.ask("/v3/keys/get-caller-info", bearer(key), urlencode({"credentials": key}).encode())
        return answer.status, json.loads(answer.body)

    status, said = caller_info(ngc.KEYS["service"])
    assert (status, said["type"], said["user"]) == (200, "SERVICE_KEY", None)
    legacy = ngc.KEYS["legacy"]
    assert caller_info(legacy)[0] == 401
    assert ngc_server.ask("/v2/org", bearer(legacy)).status == 401
    token = json.loads(ngc_server.ask("/token?service=ngc", {"Authorization": f"ApiKey {legacy}"}).body)["token"]
    assert ngc_server.ask("/v2/org", bearer(token)).status == 200
    assert ngc_server.ask(f"/proxy_auth?{SCOPE}", basic(legacy)).status == 200


def test_the_catalog_lists_an_organisation_page_by_page_for_anybody(ngc_server: Ngc, registry: str) -> None:
    push = publisher(ngc_server, "nim/a/one", "nim/a/two", "other/a/three")
    for name in ("nim/a/one", "nim/a/two", "other/a/three"):
        push.image(f"{name}:1")

    def page(number: int) -> dict[str, object]:
        query = json.dumps({"query": "orgName:nim", "page": number, "pageSize": 1})
        return json.loads(ngc_server.ask(f"/v2/search/catalog/resources/CONTAINER?{urlencode({'q': query})}").body)

    first = page(0)
    pages = [page(number) for number in range(first["resultPageTotal"])]
    names = [page["results"][0]["resources"][0]["resourceId"] for page in pages]
    assert {"nim/a/one", "nim/a/two"} <= set(names)
    assert all(name.startswith("nim/") for name in names)
    assert ngc_server.ask("/v2/search/catalog/resources/CONTAINER?q=llama").status == 400


def test_tags_come_in_pages(ngc_server: Ngc, registry: str) -> None:
    push = publisher(ngc_server, "nim/a/tagged")
    for tag in ("1", "2"):
        push.image(f"nim/a/tagged:{tag}")
    login = json.loads(ngc_server.ask("/proxy_auth?scope=repository:nim/a/tagged:pull", basic(ngc.KEYS["valid"])).body)
    answer = ngc_server.ask("/v2/nim/a/tagged/tags/list?n=1", bearer(login["token"]))
    assert json.loads(answer.body)["tags"] == ["1"]
    assert 'rel="next"' in answer.headers["Link"]


def curl(server: Ngc, path: str, *options: str) -> subprocess.CompletedProcess[str]:
    command = ["curl", "-sS", "--max-time", "5", "--cacert", str(server.ca), *options, server.url + path]
    return subprocess.run(command, capture_output=True, text=True)


def fault(server: Ngc, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    """As a user sets it: ``python -m rehearsal fault ...``."""
    monkeypatch.setenv("GPUOPS_NIM_STATE", str(server.control.parent))
    wanted = Layout.from_environment().ngc_state
    if wanted != server.control:
        wanted.unlink(missing_ok=True)
        wanted.symlink_to(server.control)
    assert command_line(["fault", *arguments]) == 0


# exit statuses of curl; a newer one calls an answer that ends without TLS' own goodbye a failure to receive
PARTIAL, BROKEN_TLS = {18, 56}, {35, 56}


def test_an_answer_can_be_cut(ngc_server: Ngc, monkeypatch: pytest.MonkeyPatch, image: str) -> None:
    fault(ngc_server, monkeypatch, "all", "--cut")
    assert curl(ngc_server, "/v2/org").returncode in PARTIAL
    assert curl(ngc_server, f"/v2/{REPOSITORY}/tags/list").returncode in PARTIAL  # one of the registry's own
    assert ngc_server.ask("/healthz").status == 200


def test_tls_can_be_refused_by_all_or_broken_by_one(ngc_server: Ngc, monkeypatch: pytest.MonkeyPatch) -> None:
    fault(ngc_server, monkeypatch, "org", "--refuse-tls")
    assert curl(ngc_server, "/v2/org").returncode in BROKEN_TLS
    assert curl(ngc_server, "/token").returncode == 0
    fault(ngc_server, monkeypatch, "--clear")
    fault(ngc_server, monkeypatch, "all", "--refuse-tls", "--count", "1")
    assert curl(ngc_server, "/token").returncode in BROKEN_TLS
    assert curl(ngc_server, "/token").returncode == 0


def test_a_client_can_be_sent_elsewhere_or_given_a_page(ngc_server: Ngc, monkeypatch: pytest.MonkeyPatch) -> None:
    fault(ngc_server, monkeypatch, "org", "--redirect", f"{ngc_server.url}/healthz")
    assert json.loads(curl(ngc_server, "/v2/org", "--location").stdout) == {"status": "ready"}
    fault(ngc_server, monkeypatch, "org", "--html")
    answer = ngc_server.ask("/v2/org")
    assert (answer.status, answer.headers["Content-Type"]) == (200, "text/html")
    assert b"<html>" in answer.body
    fault(ngc_server, monkeypatch, "org", "--html", "--status", "403")
    assert ngc_server.ask("/v2/org").status == 403


def test_small_answers_are_slow_too(ngc_server: Ngc, monkeypatch: pytest.MonkeyPatch) -> None:
    fault(ngc_server, monkeypatch, "token", "--rate", "100")
    begun = time.monotonic()
    assert ngc_server.ask(f"/proxy_auth?{SCOPE}").status == 401  # 75 bytes
    assert time.monotonic() - begun > 0.4


def test_a_fault_that_does_nothing_is_refused(
    ngc_server: Ngc, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GPUOPS_NIM_STATE", str(ngc_server.control.parent))
    assert command_line(["fault", "token"]) == 1
    assert "--refuse-tls" in capsys.readouterr().err
