# SPDX-License-Identifier: GPL-3.0-or-later
"""What users see of ngc_key_info, against the ngc stand-in and real registries, each a process of its own."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.gpuops.nim.plugins.modules import ngc_key_info
from ansible_collections.gpuops.nim.tests.unit import standins
from ansible_collections.gpuops.nim.tests.unit.standins import Ngc, Proxy, Pusher
from rehearsal.standins import ngc
from rehearsal.standins.ngc import KEYS

LLAMA3, LLAMA31 = "nim/meta/llama3-8b-instruct", "nim/meta/llama-3.1-8b-instruct"
IMAGE = f"nvcr.io/{LLAMA3}:1.0.0"
WRONG = "nvapi-nobody-ever-issued-this-one-0123456789"
PASSWORD = "pass-of-the-mirror"
# htpasswd -nbBC 4 puller pass-of-the-mirror
HTPASSWD = "puller:$2b$04$tUMFWdkE7MlzMnp0jpWewuQoT6ThCUH.rTBUNZc2jQHNgMl3vVBqi"
PROXY_PASSWORD = "pass-of-the-proxy"
BLAMELESS = {"unavailable", "network", "unknown", "rate_limited"}
Run = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def held(_ngc: Ngc, registry: str) -> dict[str, Any]:
    """What lies in the registry: name to descriptor."""
    _ngc.control.unlink(missing_ok=True)
    push = standins.publisher(_ngc, LLAMA3, LLAMA31, "nim/nvidia/both", "nim/nvidia/native")
    both = [push.image(f"nim/nvidia/both:{one}", architecture=one, layers=[b"x" * 7]) for one in ("arm64", "amd64")]
    attestation = {**both[0], "platform": {"architecture": "unknown", "os": "unknown"}}
    return {
        f"{LLAMA3}:1.0.0": push.image(f"{LLAMA3}:1.0.0", layers=[b"a" * 1000, b"b" * 234]),
        f"{LLAMA3}:1.0.3": push.image(f"{LLAMA3}:1.0.3"),
        f"{LLAMA31}:1.1.0": push.image(f"{LLAMA31}:1.1.0"),
        f"{LLAMA31}:2.0.12": push.image(f"{LLAMA31}:2.0.12"),
        "both": push.index("nim/nvidia/both:1.3.0", [attestation, *both]),
        "native": push.image("nim/nvidia/native:2.0.0", labels={"com.nvidia.nim.model_download_protocol": "native-v1"}),
    }


@pytest.fixture
def run(run_module: Any, ngc_server: Ngc, held: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """The module's result; it and what the stand-in logged hold no trace of a secret."""
    for name in ("NGC_API_KEY", "HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name in ("NO_PROXY", "no_proxy", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))

    def run(*images: str, **options: Any) -> dict[str, Any]:
        given = {
            "images": list(images),
            "ngc_api_key": KEYS["valid"],
            "registry_endpoints": dict.fromkeys(("nvcr.io", "api.ngc.nvidia.com", "authn.nvidia.com"), ngc_server.url),
            "registry_ca_cert": str(ngc_server.ca),
            **options,
        }
        given = {name: value for name, value in given.items() if value is not None}
        _, result = run_module(ngc_key_info.main, **given)
        shown = json.dumps(result)
        for secret in (*KEYS.values(), WRONG, PASSWORD, PROXY_PASSWORD):
            for form in (secret, base64.b64encode(f"$oauthtoken:{secret}".encode()).decode()[16:-4]):
                assert form not in shown + "".join(ngc_server.log)
        assert "eyJ" not in shown  # a token
        return result

    return run


def one(result: dict[str, Any]) -> dict[str, Any]:
    assert result.get("failed") is None, result
    assert result["changed"] is False
    (image,) = result["images"]
    assert result["good"] == image["good"] == (image["verdict"] in ("valid", "not_needed"))
    return image


def public(server: Ngc, *repositories: str) -> None:
    with ngc.editing(server.control) as state:
        state.public += repositories


# --- verdicts


@pytest.mark.parametrize(
    ("kind", "verdict", "said"),
    [
        ("valid", "valid", "gives this image to this key"),
        ("service", "valid", "gives this image to this key"),
        ("legacy", "valid", "gives this image to this key"),
        ("expired", "invalid", "wrong, expired or revoked"),
        ("unentitled", "not_entitled", "no subscription for this image (402)"),
        ("denied", "not_entitled", "made for other services (nvidia-cloud-functions)"),
        ("blocked", "blocked", "for legal reasons (451)"),
    ],
)
def test_each_key_gets_the_verdict_it_deserves(run: Run, kind: str, verdict: str, said: str) -> None:
    image = one(run(IMAGE, ngc_api_key=KEYS[kind]))
    assert image["image"] == IMAGE
    assert image["verdict"] == verdict
    assert said in image["cause"]
    assert bool(image["remedy"]) is (verdict != "valid")
    assert image["refused"] is (verdict != "valid")


def test_a_key_that_nobody_issued(run: Run) -> None:
    result = run(IMAGE, ngc_api_key=WRONG)
    assert one(result)["verdict"] == "invalid"
    assert "https://org.ngc.nvidia.com/setup/api-keys" in one(result)["remedy"]
    assert result["key"]["verdict"] == "invalid"


@pytest.mark.parametrize(
    ("kind", "told"), [("valid", "personal"), ("service", "service"), ("legacy", "legacy"), ("unentitled", "personal")]
)
def test_the_kind_and_organisation_of_a_key_with_and_without_images(run: Run, kind: str, told: str) -> None:
    for images in ([IMAGE], []):
        result = run(*images, ngc_api_key=KEYS[kind])
        key = result["key"]
        assert (key["kind"], key["verdict"], key["organisation"]) == (told, "valid", "rehearsal")
        assert key["products"] == (None if kind == "legacy" else ["artifact-catalog"])
        assert result["good"] is (not images or kind != "unentitled")


def test_what_anybody_may_pull_needs_no_key(run: Run, ngc_server: Ngc) -> None:
    public(ngc_server, LLAMA3)
    for key in (None, KEYS["valid"], WRONG):
        result = run(IMAGE, ngc_api_key=key)
        assert one(result)["verdict"] == "not_needed"
        assert (result["key"] is None) is (key is None)
    assert "proxy_auth 200 key=valid" not in "".join(ngc_server.log)


def test_without_a_key_the_rest_is_not_to_be_had(run: Run) -> None:
    image = one(run(IMAGE, ngc_api_key=None))
    assert image["verdict"] == "not_entitled"
    assert "none was given" in image["cause"]
    assert "NGC_API_KEY" in image["remedy"]


def test_the_key_may_come_from_the_environment_and_white_space_goes(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NGC_API_KEY", f" {KEYS['valid']}\n")
    assert one(run(IMAGE, ngc_api_key=None))["verdict"] == "valid"


def test_check_mode_asks_as_well(run: Run) -> None:
    assert one(run(IMAGE, check=True))["verdict"] == "valid"


def test_evidence_tells_who_was_asked_how_and_when(run: Run, ngc_server: Ngc) -> None:
    evidence = one(run(IMAGE, ngc_api_key=KEYS["expired"]))["evidence"]
    assert [(step["endpoint"].replace(ngc_server.url, ""), step["status"], step["auth"]) for step in evidence] == [
        (f"GET /v2/{LLAMA3}/manifests/1.0.0", 401, ""),
        ("GET /proxy_auth", 401, ""),
        ("GET /proxy_auth", 401, "basic"),
        ("POST /v3/keys/get-caller-info", 401, "bearer"),
    ]
    assert evidence[2]["said"] == "UNAUTHORIZED: authentication required"
    assert time.strftime("%Y-%m-%dT", time.gmtime()) in evidence[0]["at"]


# --- facts


def test_facts_come_from_the_manifest(run: Run, held: dict[str, Any]) -> None:
    result = run(IMAGE, f"nvcr.io/{LLAMA31}:2.0.12", "nvcr.io/nim/nvidia/both:1.3.0", "nvcr.io/nim/nvidia/native:2.0.0")
    old, new, both, native = (image["facts"] for image in result["images"])
    assert old == {
        "digest": held[f"{LLAMA3}:1.0.0"]["digest"],
        "size": 1234,
        "architectures": ["amd64"],
        "classic": True,
        "release": "1.0.0",
        "line": "1.0",
    }
    assert (new["line"], new["release"]) == ("2.x", "2.0.12")
    assert (both["digest"], both["size"], both["architectures"]) == (held["both"]["digest"], 7, ["arm64", "amd64"])
    assert native["classic"] is False


def test_an_image_by_its_digest(run: Run, held: dict[str, Any]) -> None:
    digest = held[f"{LLAMA3}:1.0.0"]["digest"]
    facts = one(run(f"nvcr.io/{LLAMA3}@{digest}"))["facts"]
    assert (facts["digest"], facts["line"]) == (digest, "")


@pytest.mark.parametrize("fault", [ngc.Fault(status=503), ngc.Fault(cut=True), ngc.Fault(html=True)])
def test_facts_that_cannot_be_had_are_unknown_and_the_key_is_good(run: Run, ngc_server: Ngc, fault: ngc.Fault) -> None:
    ngc.set_fault(ngc_server.control, "blob", fault)
    image = one(run(IMAGE, registry_timeout=1))
    assert (image["verdict"], image["facts"]["size"], image["facts"]["classic"]) == ("valid", 1234, None)


# --- names


def test_a_missing_tag_comes_with_those_that_exist(run: Run) -> None:
    image = one(run(f"nvcr.io/{LLAMA3}:1.0.1"))
    assert image["verdict"] == "no_such_image"
    assert image["cause"] == f"nvcr.io/{LLAMA3} has no tag 1.0.1."
    assert image["nearest"] == [f"nvcr.io/{LLAMA3}:1.0.0", f"nvcr.io/{LLAMA3}:1.0.3"]
    assert image["nearest"][0] in image["remedy"]


def test_the_right_tag_of_the_other_llama_is_named(run: Run) -> None:
    assert f"nvcr.io/{LLAMA31}:1.1.0" in one(run(f"nvcr.io/{LLAMA3}:1.1.0"))["nearest"]


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("nim/meta/llama-3-8b-instruct:1.0.0", f"{LLAMA3}:1.0.0"),
        ("nim/meta/llama3.1-8b-instruct:1.1.0", f"{LLAMA31}:1.1.0"),
        ("nim/nvidia/natives:2.0.0", "nim/nvidia/native:2.0.0"),
        ("nim/mta/llama3-8b-instruct:1.0.3", f"{LLAMA3}:1.0.3"),
    ],
)
def test_a_missing_repository_comes_with_the_nearest(run: Run, wrong: str, right: str) -> None:
    image = one(run(f"nvcr.io/{wrong}"))
    assert image["verdict"] == "no_such_image"
    assert "has no repository" in image["cause"]
    assert image["nearest"][0] == f"nvcr.io/{right}"


def test_without_the_catalog_known_names_and_spellings_do(run: Run, ngc_server: Ngc) -> None:
    ngc.set_fault(ngc_server.control, "catalog", ngc.Fault(status=503))
    image = one(run("nvcr.io/nim/meta/llama-3-8b-instruct:1.0.0", registry_timeout=1))
    assert image["nearest"][0] == IMAGE


def test_the_catalog_is_asked_once_and_page_by_page(run: Run, ngc_server: Ngc, monkeypatch: pytest.MonkeyPatch) -> None:
    from ansible_collections.gpuops.nim.plugins.module_utils._ngc import catalog

    monkeypatch.setattr(catalog, "PAGE", 3)
    wrong = {"nvcr.io/nim/nvidia/natives:2.0.0": "native:2.0.0", "nvcr.io/nim/nvidia/bothh:1.3.0": "both:1.3.0"}
    pages = []
    for images in ([*wrong][:1], [*wrong]):
        ngc_server.log.clear()
        nearest = [image["nearest"][0] for image in run(*images)["images"]]
        assert nearest == [f"nvcr.io/nim/nvidia/{wrong[image]}" for image in images]
        pages.append("".join(ngc_server.log).count("/v2/search/catalog"))
    assert pages[0] == pages[1] > 1


def test_tags_are_read_page_by_page(run: Run, ngc_server: Ngc, monkeypatch: pytest.MonkeyPatch) -> None:
    from ansible_collections.gpuops.nim.plugins.module_utils._ngc import registry

    monkeypatch.setattr(registry, "PAGE", 1)
    image = one(run(f"nvcr.io/{LLAMA3}:1.0.4"))
    assert image["nearest"] == [f"nvcr.io/{LLAMA3}:1.0.3", f"nvcr.io/{LLAMA3}:1.0.0"]


def test_without_tags_it_is_still_no_such_image(run: Run, ngc_server: Ngc) -> None:
    ngc.set_fault(ngc_server.control, "tags", ngc.Fault(hang=True))
    image = one(run(f"nvcr.io/{LLAMA3}:1.0.1", registry_timeout=0.5))
    assert (image["verdict"], image["nearest"]) == ("no_such_image", [])
    assert image["remedy"]


# --- many images


def test_order_is_kept_and_the_key_is_asked_about_once(run: Run, ngc_server: Ngc) -> None:
    images = [f"nvcr.io/{LLAMA3}:1.0.{patch}" for patch in (3, 9, 0, 8, 0)] * 3
    result = run(*images, ngc_api_key=KEYS["unentitled"])
    assert [image["image"] for image in result["images"]] == images
    assert {image["verdict"] for image in result["images"]} == {"not_entitled"}
    log = "".join(ngc_server.log)
    assert log.count("get-caller-info") == 1
    assert log.count("manifests") == 4  # one question for an image that is named twice


def test_every_bad_name_is_said_and_nothing_is_asked(run: Run, ngc_server: Ngc) -> None:
    bad = ["https://nvcr.io/nim/x:1", IMAGE, "nvcr.io/Nim/x:1", "", "nvcr.io/nim/x :1"]
    result = run(*bad)
    assert result["failed"] is True
    lines = result["msg"].splitlines()
    assert [line.partition(":")[0] for line in lines] == ["images[0]", "images[2]", "images[3]", "images[4]"]
    assert all("nvcr.io/nim/meta/llama3-8b-instruct:1.0.0" in line for line in lines)
    assert not ngc_server.log


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"ngc_api_key": "<your key>"}, "ngc_api_key"),
        ({"registries": [{"host": "https://x.example.com"}]}, "registries[0].host"),
        ({"registries": [{"host": "x.example.com", "password": " "}]}, "registries[0].password"),
        ({"registry_endpoints": {"nvcr.io": "127.0.0.1:5000"}}, "registry_endpoints.nvcr.io"),
        ({"registry_ca_cert": "/no/such/file"}, "registry_ca_cert"),
        ({"registry_ca_cert": __file__}, "registry_ca_cert"),
        ({"registry_proxy": "ftp://x"}, "registry_proxy"),
        ({"registry_timeout": 0}, "registry_timeout"),
        ({"images": [], "ngc_api_key": None}, "images"),
    ],
)
def test_bad_options_are_named_and_nothing_is_asked(
    run: Run, ngc_server: Ngc, options: dict[str, Any], named: str
) -> None:
    result = run(IMAGE, **options)
    assert result["failed"] is True
    assert named in result["msg"]
    assert not ngc_server.log


# --- an outage is never a bad key

FAULTS = {
    "429": ngc.Fault(status=429, retry_after=60),
    "500": ngc.Fault(status=500),
    "503": ngc.Fault(status=503),
    "418": ngc.Fault(status=418),
    "hang": ngc.Fault(hang=True),
    "slow": ngc.Fault(rate=20),
    "cut": ngc.Fault(cut=True),
    "page": ngc.Fault(html=True),
    "page 403": ngc.Fault(html=True, status=403),
    "no TLS": ngc.Fault(refuse_tls=True),
    "nowhere": ngc.Fault(redirect="http://127.0.0.1:1/"),
    "round": ngc.Fault(redirect="/proxy_auth"),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
@pytest.mark.parametrize("target", ["token", "manifest", "all"])
def test_a_good_key_is_not_blamed_for_trouble_at_the_registry(
    run: Run, ngc_server: Ngc, target: str, fault: ngc.Fault
) -> None:
    ngc.set_fault(ngc_server.control, target, fault)
    image = one(run(IMAGE, registry_timeout=1))
    assert image["verdict"] in BLAMELESS
    assert image["cause"]
    assert image["remedy"]
    assert image["evidence"]
    assert image["refused"] is False


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
@pytest.mark.parametrize(("target", "key"), [("caller-info", WRONG), ("authn", KEYS["legacy"][:-4] + "ODg4")])
def test_a_bad_key_is_not_called_so_while_ngc_cannot_confirm_it(
    run: Run, ngc_server: Ngc, target: str, key: str, fault: ngc.Fault
) -> None:
    ngc.set_fault(ngc_server.control, target, fault)
    result = run(IMAGE, ngc_api_key=key, registry_timeout=3)
    assert one(result)["verdict"] == "unknown"
    assert "401" in one(result)["cause"]
    assert result["key"]["verdict"] in BLAMELESS


@pytest.mark.parametrize("target", ["token", "manifest", "registry"])
def test_a_401_that_ngc_does_not_confirm_is_unknown(run: Run, ngc_server: Ngc, target: str) -> None:
    ngc.set_fault(ngc_server.control, target, ngc.Fault(status=401))
    assert one(run(IMAGE))["verdict"] == "unknown"


def test_a_good_key_is_good_while_its_service_is_down(run: Run, ngc_server: Ngc) -> None:
    ngc.set_fault(ngc_server.control, "api", ngc.Fault(status=503))
    result = run(IMAGE, registry_timeout=3)
    assert one(result)["verdict"] == "valid"
    assert result["key"]["verdict"] == "unavailable"


def test_an_overload_that_passes_is_waited_out(run: Run, ngc_server: Ngc) -> None:
    ngc.set_fault(ngc_server.control, "manifest", ngc.Fault(status=429, retry_after=1, count=1))
    ngc.set_fault(ngc_server.control, "token", ngc.Fault(status=503, count=2))
    assert one(run(IMAGE))["verdict"] == "valid"


def test_a_long_overload_is_not(run: Run, ngc_server: Ngc) -> None:
    ngc.set_fault(ngc_server.control, "token", ngc.Fault(status=429, retry_after=60))
    begun = time.monotonic()
    image = one(run(IMAGE))
    assert time.monotonic() - begun < 40
    assert image["verdict"] == "rate_limited"
    assert "60 s" in image["cause"]


def test_a_silent_registry_costs_its_timeout_once_for_many_images(run: Run, ngc_server: Ngc) -> None:
    ngc.set_fault(ngc_server.control, "all", ngc.Fault(hang=True))
    result = run(*(f"nvcr.io/{LLAMA3}:1.0.{patch}" for patch in range(100)), registry_timeout=1)
    assert {image["verdict"] for image in result["images"]} == {"unavailable"}
    asked = [image for image in result["images"] if image["evidence"][-1]["said"] != "not asked again"]
    assert len(asked) < 80


def test_nothing_listens_and_no_such_name(run: Run) -> None:
    nobody = one(
        run(IMAGE, registry_endpoints={"nvcr.io": "https://127.0.0.1:1", "api.ngc.nvidia.com": "https://127.0.0.1:1"})
    )
    assert nobody["verdict"] == "unavailable"
    assert "connection refused" in nobody["cause"]
    nameless = one(run("registry.invalid/nim/x:1"))
    assert nameless["verdict"] == "network"
    assert "(DNS)" in nameless["cause"]
    assert "registry.invalid" in nameless["remedy"]


# --- TLS and proxies


def test_a_ca_that_nobody_knows(run: Run, ngc_server: Ngc, monkeypatch: pytest.MonkeyPatch) -> None:
    image = one(run(IMAGE, registry_ca_cert=None))
    assert image["verdict"] == "network"
    assert "(TLS)" in image["cause"]
    assert "registry_ca_cert" in image["remedy"]
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(ngc_server.ca))
    assert one(run(IMAGE, registry_ca_cert=None))["verdict"] == "valid"


def test_our_ca_counts_beside_that_of_the_environment(run: Run, pki: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(pki / "signing.crt"))  # trusts nobody that we meet
    assert one(run(IMAGE))["verdict"] == "valid"


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    made = Proxy()
    yield made
    made.close()


@pytest.mark.parametrize("by", ["option", "environment"])
def test_through_a_proxy(run: Run, proxy: Proxy, by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    url = proxy.url.replace("//", f"//me:{PROXY_PASSWORD}@")
    options = {"registry_proxy": url} if by == "option" else {}
    if by == "environment":
        monkeypatch.setenv("HTTPS_PROXY", url)
    assert one(run(IMAGE, **options))["verdict"] == "valid"
    assert proxy.seen
    assert base64.b64encode(f"me:{PROXY_PASSWORD}".encode()).decode() in proxy.seen[0]
    seen = len(proxy.seen)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    assert one(run(IMAGE, **options))["verdict"] == "valid"
    assert len(proxy.seen) == seen


@pytest.mark.parametrize("status", ["407 Proxy Authentication Required", "403 Forbidden", "502 Bad Gateway"])
def test_a_proxy_that_does_not_let_through(run: Run, status: str) -> None:
    proxy = Proxy(status)
    image = one(run(IMAGE, registry_proxy=proxy.url.replace("//", f"//me:{PROXY_PASSWORD}@")))
    proxy.close()
    assert image["verdict"] == "network"
    assert "(proxy)" in image["cause"]
    assert status.split()[0] in image["cause"]
    assert "registry_proxy" in image["remedy"]


def test_no_proxy_at_all(run: Run) -> None:
    image = one(run(IMAGE, registry_proxy="http://127.0.0.1:1"))
    assert image["verdict"] == "network"
    assert "(proxy)" in image["cause"]


def test_a_netrc_adds_no_login(run: Run, ngc_server: Ngc, tmp_path: Path) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login somebody password something-else\n")
    (tmp_path / ".netrc").chmod(0o600)
    public(ngc_server, LLAMA3)
    assert one(run(IMAGE, ngc_api_key=None))["verdict"] == "not_needed"


# --- other registries


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A registry with HTTP basic authentication; its URL."""
    folder = tmp_path_factory.mktemp("mirror")
    (folder / "htpasswd").write_text(HTPASSWD + "\n")
    config = {
        "version": 0.1,
        "storage": {"filesystem": {"rootdirectory": str(folder / "storage")}},
        "http": {"addr": "127.0.0.1:0"},
        "auth": {"htpasswd": {"realm": "mirror", "path": str(folder / "htpasswd")}},
    }
    (folder / "config.yml").write_text(json.dumps(config))
    process, log = standins.start([str(standins.program("registry")), "serve", str(folder / "config.yml")])
    try:
        url = "http://" + standins.wait_for(r"listening on ([\d.:]+)", log, process)[1]
        login = base64.b64encode(f"puller:{PASSWORD}".encode()).decode()
        Pusher(url, {"Authorization": f"Basic {login}"}).image("nim/meta/llama3-8b-instruct:1.0.0")
        yield url
    finally:
        standins.stop(process)


@pytest.fixture
def at_mirror(run: Run, mirror: str) -> Run:
    def at_mirror(password: str | None = PASSWORD, repository: str = LLAMA3, **options: Any) -> dict[str, Any]:
        login = {"host": "mirror.example.com", "username": "puller", "password": password}
        registries = [login] if password else []
        return run(
            f"mirror.example.com/{repository}:1.0.0",
            **{"registries": registries, "registry_endpoints": {"mirror.example.com": mirror}, **options},
        )

    return at_mirror


def test_a_registry_with_basic_authentication(at_mirror: Run) -> None:
    result = at_mirror()
    assert one(result)["verdict"] == "valid"
    assert "login of puller" in one(result)["cause"]
    assert result["key"] is None  # the NGC key has no part in it
    wrong = one(at_mirror("not-this-one"))
    assert wrong["verdict"] == "invalid"
    assert "registries" in wrong["remedy"]
    nobody = one(at_mirror(None))
    assert nobody["verdict"] == "unknown"
    assert "wants a login" in nobody["cause"]
    assert one(at_mirror(repository="nim/meta/other"))["verdict"] == "no_such_image"
    assert one(at_mirror(repository="nim/meta/llama-3-8b-instruct"))["nearest"] == [
        f"mirror.example.com/{LLAMA3}:1.0.0"
    ]


def test_the_ngc_key_goes_nowhere_that_it_was_not_meant_for(at_mirror: Run, ngc_server: Ngc, mirror: str) -> None:
    assert one(at_mirror(None))["verdict"] == "unknown"
    assert not ngc_server.log


def test_a_mirror_with_tokens_takes_its_own_login_or_the_key(run: Run, ngc_server: Ngc) -> None:
    ours = {"registry_endpoints": {"m.example.com:5000": ngc_server.url}}
    image = f"m.example.com:5000/{LLAMA3}:1.0.0"
    for registries, verdict in (
        ([{"host": "m.example.com:5000"}], "valid"),
        ([{"host": "m.example.com:5000", "password": KEYS["second"]}], "valid"),
        ([{"host": "m.example.com:5000", "password": WRONG}], "invalid"),
        ([{"host": "m.example.com:5000", "password": KEYS["denied"]}], "not_entitled"),
        # the longest part of the name that fits counts
        ([{"host": "m.example.com:5000", "password": WRONG}, {"host": "m.example.com:5000/nim"}], "valid"),
        (
            [{"host": "m.example.com:5000"}, {"host": "m.example.com:5000/nim/met", "password": WRONG}],
            "valid",
        ),
        ([{"host": "m.example.com"}], "unknown"),
    ):
        assert one(run(image, registries=registries, **ours))["verdict"] == verdict
    assert "get-caller-info" not in "".join(ngc_server.log)


def test_a_mirror_that_recovers_has_not_refused(run: Run, ngc_server: Ngc) -> None:
    """Two refusals and then none: as anybody, with the login, and then the login alone."""
    ngc.set_fault(ngc_server.control, "token", ngc.Fault(status=401, count=2))
    registries = [{"host": "mirror.example.com"}]
    options = {"registries": registries, "registry_endpoints": {"mirror.example.com": ngc_server.url}}
    assert one(run(f"mirror.example.com/{LLAMA3}:1.0.0", **options))["verdict"] == "unknown"
