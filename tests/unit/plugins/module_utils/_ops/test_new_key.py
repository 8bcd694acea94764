# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: Contributors to gpuops.nim
"""The new key stands where the old one stood, and nowhere else."""

from __future__ import annotations

import base64
import json

import pytest

from ansible_collections.gpuops.nim.plugins.module_utils._ngc.key import BadKey
from ansible_collections.gpuops.nim.plugins.module_utils._ops.key_users import Names, Place
from ansible_collections.gpuops.nim.plugins.module_utils._ops.new_key import NewKey, given_logins, is_ngc
from ansible_collections.gpuops.nim.plugins.module_utils._ops.result import OpsError

OLD, NEW = "nvapi-unit-old-0123456789abcdefghijk", "nvapi-unit-new-0123456789abcdefghijk"
USED = Names("ngc-secret", "nvidia-nim-secrets")
OURS = {"app.kubernetes.io/managed-by": "gpuops.nim"}


def b64(text):
    return base64.b64encode(text.encode()).decode()


def secret(name, data, labels=None):
    return {"metadata": {"name": name, "namespace": "nim", "labels": labels or {}}, "data": data}


def place(auths=None, values=None, labels=None):
    pull = runtime = None
    if auths is not None:
        pull = secret("ngc-secret", {".dockerconfigjson": b64(json.dumps({"auths": auths}))}, labels)
    if values is not None:
        runtime = secret("nvidia-nim-secrets", {key: b64(value) for key, value in values.items()}, labels)
    return Place("nim", pull, runtime, (), ())


def become(given, key=NEW, logins=None):
    """What the Secrets that are to be written hold: logins by host, and variables."""
    found = {}
    for wanted in NewKey(key, logins or {}).wanted(given, USED):
        data = wanted.manifest("nim", "salt")["data"]
        found[wanted.kind] = {name: base64.b64decode(value).decode() for name, value in data.items()}
    if "pull" in found:
        auths = json.loads(found["pull"][".dockerconfigjson"])["auths"]
        found["pull"] = {host: (auth["username"], auth["password"]) for host, auth in auths.items()}
    return found


def test_what_is_missing_is_made():
    assert become(place()) == {"pull": {"nvcr.io": ("$oauthtoken", NEW)}, "runtime": {"NGC_API_KEY": NEW}}


def test_only_the_old_key_is_replaced():
    auths = {
        "nvcr.io": {"username": "$oauthtoken", "password": OLD},
        "copy.example.com": {"username": "team", "password": OLD},
        "mirror.example.com": {"username": "puller", "password": "its own"},
    }
    values = {"NGC_API_KEY": OLD, "NGC_CLI_API_KEY": OLD, "HF_TOKEN": "hf"}
    assert become(place(auths, values)) == {
        "pull": {
            "nvcr.io": ("$oauthtoken", NEW),
            "copy.example.com": ("team", NEW),
            "mirror.example.com": ("puller", "its own"),
        },
        "runtime": {"NGC_API_KEY": NEW, "NGC_CLI_API_KEY": NEW, "HF_TOKEN": "hf"},
    }


def test_a_key_that_only_the_runtime_secret_had_is_known_in_the_pull_secret():
    auths = {"mirror.example.com": {"username": "u", "password": OLD}}
    assert become(place(auths, {"NGC_API_KEY": OLD}))["pull"] == {"mirror.example.com": ("u", NEW)}


def test_a_mirror_alone_gets_no_login_for_ngc():
    auths = {"mirror.example.com": {"username": "u", "password": "its own"}}
    assert "pull" not in become(place(auths, {"NGC_API_KEY": OLD}))


def test_logins_in_one_word_and_hosts_as_urls_are_understood():
    auths = {"https://nvcr.io/v2/": {"auth": b64(f"$oauthtoken:{OLD}")}}
    assert become(place(auths, {}))["pull"] == {"https://nvcr.io/v2/": ("$oauthtoken", NEW)}


def test_others_secrets_that_are_right_already_are_left_alone_and_ours_are_compared_by_the_server():
    auths, values = {"nvcr.io": {"auth": b64(f"$oauthtoken:{NEW}")}}, {"NGC_API_KEY": NEW}
    assert become(place(auths, values)) == {}
    assert become(place(auths, values, OURS)).keys() == {"pull", "runtime"}
    assert NewKey(NEW, {}).is_in(place(auths, values))
    assert not NewKey(OLD, {}).is_in(place(auths, values))
    assert not NewKey(NEW, {}).is_in(place(auths, None))


def test_given_logins_are_set_beside_it():
    logins = given_logins([{"host": "mirror.example.com:5000", "username": "u", "password": " p\n"}], NEW)
    auths = {"nvcr.io": {"username": "$oauthtoken", "password": OLD}}
    assert become(place(auths, {}), logins=logins)["pull"]["mirror.example.com:5000"] == ("u", "p")


def test_an_empty_password_is_not_the_key():
    with pytest.raises(BadKey, match=r"registries\[0\]\.password"):
        given_logins([{"host": "mirror.example.com", "username": "u", "password": " "}], NEW)


def test_what_is_no_docker_config_is_named_without_its_content():
    broken = Place("nim", secret("ngc-secret", {".dockerconfigjson": b64(f"oops {OLD}")}), None, (), ())
    with pytest.raises(OpsError, match="Secret nim/ngc-secret") as raised:
        NewKey(NEW, {}).wanted(broken, USED)
    assert OLD not in str(raised.value)


@pytest.mark.parametrize("host", ["nvcr.io", "https://nvcr.io", "nvcr.io/nim"])
def test_ngcs_own_host(host):
    assert is_ngc(host)
    assert not is_ngc(f"x{host}")
    assert not is_ngc(f"{host.partition('/nim')[0]}.example.com")


def test_neither_shows_a_key():
    assert NEW not in repr(NewKey(NEW, given_logins([{"host": "m.example.com", "username": "u"}], NEW)))
