# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""Verdicts about one key and many images, all asked at the same time."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Any, Optional
from urllib.parse import urlsplit

from ansible.module_utils.basic import env_fallback

from ansible_collections.gpuops.nim.plugins.module_utils._ngc import caller
from ansible_collections.gpuops.nim.plugins.module_utils._ngc.catalog import Catalog
from ansible_collections.gpuops.nim.plugins.module_utils._ngc.key import BadKey, clean
from ansible_collections.gpuops.nim.plugins.module_utils._ngc.registry import Inquiry, Login, Question, Shared
from ansible_collections.gpuops.nim.plugins.module_utils._ngc.transport import CONNECTIONS, BadOption, Way, Web
from ansible_collections.gpuops.nim.plugins.module_utils._ngc.verdict import KeyInfo, Verdict
from ansible_collections.gpuops.nim.plugins.module_utils._nim import contract
from ansible_collections.gpuops.nim.plugins.module_utils._ops.result import OpsError, Progress, Result

Json = dict[str, Any]
NGC = "nvcr.io"
USERNAME = "$oauthtoken"
DOCKER_HUB = "docker.io"

REGISTRY_ARGUMENTS: Json = {
    "ngc_api_key": {"type": "str", "no_log": True, "fallback": (env_fallback, ["NGC_API_KEY"])},
    "registries": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {
            "host": {"type": "str", "required": True},
            "username": {"type": "str", "default": USERNAME},
            "password": {"type": "str", "no_log": True},
        },
    },
    "registry_endpoints": {"type": "dict", "default": {}},
    "registry_ca_cert": {"type": "path"},
    "registry_proxy": {"type": "str"},
    "registry_timeout": {"type": "float", "default": 10.0},
}


def ask(images: Sequence[str], params: Mapping[str, Any], progress: Progress = lambda line: None) -> list[Verdict]:
    """A verdict for each image, in their order; an outage is one, too.

    :param params: validated options of REGISTRY_ARGUMENTS.
    :raises OpsError: an image or option that can't be right; then nothing was asked. :raises BadKey: the same of a key.
    """
    with _asking(images, params) as asking:
        return asking.verdicts(progress)


def run(params: Mapping[str, Any], *, check_mode: bool, diff: bool, progress: Progress) -> Result:
    """What is known about the key and each of ``params["images"]``. Changes nothing, so check mode asks as well.

    :raises OpsError: bad options, or nothing to ask about. :raises BadKey: a key that can't be one.
    """
    if not params["images"] and not params["ngc_api_key"]:
        raise OpsError(
            "There is nothing to ask about: give images, or ngc_api_key (or the variable NGC_API_KEY), or both."
        )
    with _asking(params["images"], params) as asking:
        wanted = not asking.questions or any(question.host == NGC for question in asking.questions)
        if wanted:
            asking.pool.submit(asking.key)  # beside the images
        verdicts = asking.verdicts(progress)
        key = asking.key() if wanted else None
    good = all(verdict.good for verdict in verdicts) if verdicts else bool(key and key.verdict == "valid")
    shown = [{**asdict(verdict), "good": verdict.good, "refused": verdict.refused} for verdict in verdicts]
    return Result(False, {"good": good, "key": asdict(key) if key else None, "images": shown})


@dataclass
class _Asking:
    """One run: what is asked, and what all questions share."""

    questions: list[Question]
    web: Web
    pool: ThreadPoolExecutor
    ngc_api_key: str
    logins: Mapping[str, Login]

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._key: Optional[KeyInfo] = None
        self._shared = Shared(self.web, Catalog(self.web), self.key)

    def key(self) -> Optional[KeyInfo]:
        """What NGC says about its key; asked once."""
        with self._lock:
            if self._key is None and self.ngc_api_key:
                self._key = caller.about(self.web, self.ngc_api_key)
            return self._key

    def verdicts(self, progress: Progress) -> list[Verdict]:
        # an image that is named twice is asked once
        once = list({(each.host, each.repository, each.reference): each for each in self.questions}.values())
        found: dict[tuple[str, str, str], Verdict] = {}
        for question, verdict in zip(once, self.pool.map(self._verdict, once)):
            progress(f"{question.image}: {verdict.verdict}")
            found[question.host, question.repository, question.reference] = verdict
        return [replace(found[each.host, each.repository, each.reference], image=each.image) for each in self.questions]

    def _verdict(self, question: Question) -> Verdict:
        login = _login(self.logins, question)
        verdict = Inquiry(self._shared, question, login).verdict()
        if not verdict.facts:
            return verdict
        line = contract.contract_for(question.image)
        release = contract.parse_image(question.image).tag if line.known else ""
        facts = replace(verdict.facts, release=release, line=line.line if line.known else "")
        return replace(verdict, facts=facts)


def _login(logins: Mapping[str, Login], question: Question) -> Optional[Login]:
    """The one for the longest part of the image's name, as in a docker config."""
    name = f"{question.host}/{question.repository}"
    fitting = [place for place in logins if f"{name}/".startswith(f"{place.rstrip('/')}/")]
    return logins[max(fitting, key=len)] if fitting else None


@contextlib.contextmanager
def _asking(images: Sequence[str], params: Mapping[str, Any]) -> Iterator[_Asking]:
    wrong: list[str] = []
    questions = list(_questions(images, wrong))
    _check(params, wrong)
    if wrong:
        raise OpsError("\n".join(wrong))
    key = clean(params["ngc_api_key"]) if params["ngc_api_key"] else ""
    logins = _logins(params["registries"], key)
    way = Way(
        {str(host): str(url) for host, url in (params["registry_endpoints"] or {}).items()},
        params["registry_ca_cert"],
        params["registry_proxy"] or None,
        params["registry_timeout"],
    )
    try:
        web = Web(way, [key, *(secret for login in logins.values() for secret in _secrets(login))])
    except BadOption as error:
        raise OpsError(f"{error.option}: {error}") from None
    pool = ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="verdict")
    try:
        yield _Asking(questions, web, pool, key, logins)
    finally:  # what ends the task early must not wait for those who still ask
        pool.shutdown(wait=False, cancel_futures=True)
        web.close()


def _secrets(login: Login) -> tuple[str, str]:
    return login.password, login.header["Authorization"].partition(" ")[2]


def _questions(images: Sequence[str], wrong: list[str]) -> Iterator[Question]:
    for index, image in enumerate(images):
        try:
            parts = contract.parse_image(image)
        except ValueError as error:
            wrong.append(f"images[{index}]: {error}.")
            continue
        host, repository = parts.registry or DOCKER_HUB, parts.repository
        if host == DOCKER_HUB and "/" not in repository:
            repository = f"library/{repository}"
        yield Question(image, host, repository, parts.digest or parts.tag or "latest")


def _logins(registries: Sequence[Json], key: str) -> dict[str, Login]:
    logins = {NGC: Login(USERNAME, key, ngc=True)} if key else {}
    for index, registry in enumerate(registries):
        given, host = registry["password"], registry["host"]
        password = key if given is None else given.strip()
        if given is not None and not password:
            # most likely a variable that is empty; the NGC key must not go to somebody else's registry instead
            raise BadKey(f"registries[{index}].password: is empty; leave it out to use the NGC key.")
        if password:
            logins[host] = Login(registry["username"], password, ngc=host == NGC and password == key)
    return logins


def _check(params: Mapping[str, Any], wrong: list[str]) -> None:
    """What is wrong with the options; all of it, so that a person has to correct them only once."""
    for index, registry in enumerate(params["registries"]):
        if not _is_host(registry["host"]):
            wrong.append(
                f"registries[{index}].host: {registry['host']!r} is not a registry's name; "
                "without https://, for example nvcr.io."
            )
    for host, url in (params["registry_endpoints"] or {}).items():
        if not _is_url(str(url), ("https", "http")):
            wrong.append(f"registry_endpoints.{host}: {url!r} is not a URL such as https://127.0.0.1:5000.")
    proxy = params["registry_proxy"]
    if proxy and not _is_url(proxy if "://" in proxy else f"http://{proxy}", ("http", "https", "socks5", "socks5h")):
        wrong.append("registry_proxy: is not the URL of a proxy, such as http://proxy.example.com:3128.")
    if params["registry_timeout"] <= 0:
        wrong.append(f"registry_timeout: is {params['registry_timeout']:g}, must be more than 0 seconds.")


def _is_host(host: str) -> bool:
    try:
        return bool(contract.parse_image(f"{host}/image").registry)
    except ValueError:
        return False


def _is_url(url: str, schemes: Sequence[str]) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in schemes and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        return False
