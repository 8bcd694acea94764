# SPDX-License-Identifier: GPL-3.0-or-later
"""What Ansible is told, and what it must never be told."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from ansible_collections.gpuops.nim.plugins.module_utils import _ansible
from ansible_collections.gpuops.nim.plugins.module_utils._kube.errors import Unreachable
from ansible_collections.gpuops.nim.plugins.module_utils._ngc.key import BadKey
from ansible_collections.gpuops.nim.plugins.module_utils._ops.result import OpsError, Result

KEY = "nvapi-s3cr3t-0123456789-abcdefghij"


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def docker_config(user: str) -> str:
    return json.dumps({"auths": {"nvcr.io": {"username": user, "password": KEY, "auth": b64(f"{user}:{KEY}")}}})


def spec(run: Any, **options: Any) -> _ansible.ModuleSpec:
    return _ansible.ModuleSpec({"key": {"type": "str", "no_log": True}, "kubeconfig": {"type": "raw"}, **options}, run)


def returns(**data: Any) -> Any:
    return lambda params, **ways: Result(False, data)


def raises(error: BaseException) -> Any:
    def run(params: Any, **ways: Any) -> Result:
        raise error

    return run


@pytest.mark.parametrize(
    "text",
    [
        KEY,
        f"the key is {KEY}, isn't it",
        b64(KEY),
        *(b64("x" * before + KEY + "after") for before in range(3)),
        *(b64(f"{user}:{KEY}") for user in ("$oauthtoken", "u", "us", "use")),
        *(docker_config(user) for user in ("$oauthtoken", "u", "us", "use")),
        *(b64(docker_config(user)) for user in ("$oauthtoken", "u", "us", "use")),
    ],
)
def test_no_form_of_a_secret_comes_back(run_module: Any, text: str) -> None:
    def run(params: Any, **ways: Any) -> Result:
        return Result(True, {"nested": [{"text": text}]}, [{"before": text, "after": "x"}], [f"careful: {text}"])

    code, result = run_module(lambda: _ansible.run_module(spec(run)), diff=True, key=KEY)
    out = json.dumps(result)
    assert code == 0
    assert result["changed"] is True
    for form in (KEY, b64(KEY)[:-4], b64(f"$oauthtoken:{KEY}")[16:-4], b64(b64(f"$oauthtoken:{KEY}"))[24:-8]):
        assert form not in out
    # whatever stays of base64 at both ends is too short to say anything
    for decoded in decodings(result["nested"][0]["text"]):
        assert KEY[2:-2] not in decoded


def decodings(text: str) -> list[str]:
    try:
        inner = base64.b64decode(text.replace("*", ""), validate=True).decode()
    except ValueError:
        return [text]
    return [text, inner, *(decodings(inner) if inner else [])]


def test_users_of_a_kubeconfig_stay_hidden(run_module: Any) -> None:
    users = [{"name": "u", "user": {"token": "tok-0123456789", "client-key-data": "a2V5LWRhdGE="}}]
    main = spec(lambda params, **ways: Result(False, {"echo": params["kubeconfig"]}))
    _, result = run_module(lambda: _ansible.run_module(main), kubeconfig={"users": users})
    assert "tok-0123456789" not in json.dumps(result)
    assert "a2V5LWRhdGE=" not in json.dumps(result)


def test_a_password_that_is_a_word_of_ours_breaks_nothing(run_module: Any) -> None:
    _, result = run_module(lambda: _ansible.run_module(spec(returns(text="nothing failed"))), key="failed")
    assert (result["text"], result["changed"]) == ("nothing ********", False)


def test_a_short_password_does_not_mask_ordinary_words(run_module: Any) -> None:
    _, result = run_module(lambda: _ansible.run_module(spec(returns(text="PLAYWRIGHT"))), key="ab")
    assert result["text"] == "PLAYWRIGHT"  # holds base64 of it, YW


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (Unreachable("The API server is gone."), "The API server is gone."),
        (BadKey("ngc_api_key: no key was given"), "ngc_api_key: no key was given"),
        (OpsError("one of two failed", data={"done": 1}, changed=True), "one of two failed"),
    ],
)
def test_known_errors_are_messages(run_module: Any, error: Exception, message: str) -> None:
    code, result = run_module(lambda: _ansible.run_module(spec(raises(error))))
    assert code == 1
    assert result["failed"] is True
    assert result["msg"] == message


def test_an_error_keeps_what_was_done(run_module: Any) -> None:
    error = OpsError(
        "half done", data={"done": [1]}, changed=True, diff=[{"before": "a", "after": "b"}], warnings=["w"]
    )
    _, result = run_module(lambda: _ansible.run_module(spec(raises(error))), diff=True)
    assert (result["done"], result["changed"], result["diff"]) == ([1], True, [{"before": "a", "after": "b"}])
    assert "w" in json.dumps(result["warnings"])


def test_no_diff_unless_asked_for(run_module: Any) -> None:
    main = spec(lambda params, **ways: Result(True, {}, [{"before": "a", "after": "b"}]))
    assert "diff" not in run_module(lambda: _ansible.run_module(main))[1]


def test_a_missing_library_is_named(run_module: Any) -> None:
    missing = ModuleNotFoundError("No module named 'kubernetes'", name="kubernetes.client")
    _, result = run_module(lambda: _ansible.run_module(spec(raises(missing))))
    assert "kubernetes" in result["msg"]
    assert result["failed"] is True


@pytest.mark.parametrize("bug", [KeyError("status"), ModuleNotFoundError("No module named 'x'", name="x")])
def test_a_bug_stays_an_exception(bug: Exception) -> None:
    with pytest.raises(type(bug)):
        _ansible.outcome(spec(raises(bug)), {}, [], check_mode=False, diff=False, progress=print)
