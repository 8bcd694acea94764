# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""May this image be had? First as anybody, then with the login that there is; no layer is pulled."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Callable, Optional
from urllib.parse import quote, urljoin, urlsplit

from . import facts, judge, nearest
from .catalog import Catalog
from .transport import Reply, Trouble, Web
from .verdict import Evidence, ImageFacts, Judgement, KeyInfo, Verdict

PAGES = 10  # of tags, at most
PAGE = 1000  # tags


@dataclass(frozen=True)
class Question:
    """An image in its parts. ``reference``: its digest, or its tag."""

    image: str
    host: str
    repository: str
    reference: str


@dataclass(frozen=True, repr=False)
class Login:
    """``ngc``: the password is an NGC key, so that NGC can be asked about it."""

    user: str
    password: str
    ngc: bool = False

    @property
    def header(self) -> dict[str, str]:
        value = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
        return {"Authorization": f"Basic {value}"}


@dataclass(frozen=True)
class _Challenge:
    """What a registry wants: ``basic``, or ``bearer`` with the place where a token is to be had."""

    scheme: str
    realm: str = ""
    service: str = ""


@dataclass(frozen=True)
class _Answer:
    """The last reply of an attempt, the step that it belongs to, and what the registry was asked with."""

    step: str
    reply: Reply
    headers: Mapping[str, str]

    @property
    def good(self) -> bool:
        """The image's manifest was given; a token service that answers without a token hasn't given anything."""
        return self.step != "token" and self.reply.status == 200


@dataclass(frozen=True)
class Shared:
    """What the inquiries of one run have in common. ``key``: what NGC says about its key, asked when it matters."""

    web: Web
    catalog: Catalog
    key: Callable[[], Optional[KeyInfo]]


class Inquiry:
    """One image at one registry. Used once; ``evidence`` grows with each question."""

    def __init__(self, shared: Shared, question: Question, login: Optional[Login]) -> None:
        self.shared, self.web, self.question, self.login = shared, shared.web, question, login
        self.evidence: list[Evidence] = []

    def verdict(self) -> Verdict:
        """The verdict; trouble of any kind is one."""
        try:
            return self._verdict()
        except Trouble as trouble:
            self.evidence.append(trouble.evidence)
            return self._say(trouble.judgement)

    def _verdict(self) -> Verdict:
        challenge, anybody = self._as_anybody()
        if anybody.good:
            return self._found(Judgement("not_needed", "Anybody may pull this image; no key is needed."), anybody)
        if not self.login:
            return self._refused(anybody, None, challenge)
        mine = self._with(challenge, self.login)
        if mine.good:
            whose = "this key" if self.login.ngc else f"the login of {self.login.user}"
            return self._found(Judgement("valid", f"{self.question.host} gives this image to {whose}."), mine)
        return self._refused(mine, self.login, challenge)

    # --- the two attempts
    def _as_anybody(self) -> tuple[_Challenge, _Answer]:
        reply = self._manifest({})
        challenge = _challenge(reply)
        if reply.status in (401, 403) and not challenge:
            challenge = _challenge(self._ask("/v2/", {}))  # where the protocol says that it stands
        challenge = challenge or _Challenge("basic")
        answer = _Answer("manifest", reply, {})
        if reply.status == 401 and challenge.scheme == "bearer":
            answer = self._by_token(challenge, None)
        return challenge, answer

    def _with(self, challenge: _Challenge, login: Login) -> _Answer:
        if challenge.scheme == "bearer":
            return self._by_token(challenge, login)
        return _Answer("login", self._manifest(login.header), login.header)

    def _by_token(self, challenge: _Challenge, login: Optional[Login]) -> _Answer:
        reply = self._token(challenge, login, f"repository:{self.question.repository}:pull")
        headers = _bearer(reply)
        if not headers:
            return _Answer("token", reply, {})
        return _Answer("manifest", self._manifest(headers), headers)

    def _token(self, challenge: _Challenge, login: Optional[Login], scope: str) -> Reply:
        realm = urlsplit(challenge.realm)
        base = self.web.base(self.question.host)
        if login and realm.scheme != "https" and base.startswith("https://"):
            raise Trouble(
                Judgement(
                    "unknown",
                    f"{self.question.host} wants the login sent to {realm.netloc} without TLS; it was not sent.",
                    "Have the registry name a token service with https.",
                ),
                self.evidence[-1],
            )
        query = [("service", challenge.service)] if challenge.service else []
        query += [("scope", scope)] if scope else []
        query += [("account", login.user)] if login else []
        reply = self.web.ask(self.question.host, challenge.realm, headers=login.header if login else {}, query=query)
        self.evidence.append(reply.evidence)
        return reply

    def _manifest(self, headers: Mapping[str, str]) -> Reply:
        path = f"{_path(self.question.repository)}/manifests/{self.question.reference}"
        return self._ask(path, {**headers, "Accept": facts.ACCEPT})

    def _ask(self, path: str, headers: Mapping[str, str]) -> Reply:
        reply = self.web.ask(self.question.host, path, headers=headers)
        self.evidence.append(reply.evidence)
        return reply

    # --- what comes of them
    def _found(self, said: Judgement, answer: _Answer) -> Verdict:
        def ask(path: str) -> Reply:
            headers = {**answer.headers, "Accept": facts.ACCEPT}
            return self.web.ask(self.question.host, _path(self.question.repository) + path, headers=headers)

        return self._say(said, found=facts.read(answer.reply, ask))

    def _refused(self, answer: _Answer, login: Optional[Login], challenge: _Challenge) -> Verdict:
        reply, question = answer.reply, self.question
        if reply.status == 404 and answer.step != "token":
            return self._missing(answer, challenge)
        said = reply.evidence.said
        if reply.redirected and reply.status in (401, 402, 403):
            cause = f"{question.host} sends the question on to {reply.url}, which refuses it ({reply.status})."
            return self._say(Judgement("unknown", cause, "See who answers there, and try again."))
        # a registry that gave a token and then says this of itself means the repository, not the login
        scope = "insufficient_scope" in reply.headers.get("www-authenticate", "")
        scope = answer.step == "manifest" and (scope or said.startswith(("UNAUTHORIZED", "DENIED")))
        refusal = judge.Refusal(question.host, question.repository, answer.step, reply.status, said, scope)
        if not login:
            return self._say(judge.without_login(refusal))
        key = self.shared.key() if login.ngc and reply.status in (401, 402, 403) else None
        confirmed = False
        if reply.status == 401 and not key and answer.step != "manifest":
            confirmed = self._again(challenge, login).status == 401
        if key:
            self.evidence += key.evidence
        return self._say(judge.with_login(refusal, login.user, key, confirmed))

    def _again(self, challenge: _Challenge, login: Login) -> Reply:
        """The login alone, whatever the image."""
        if challenge.scheme == "bearer":
            return self._token(challenge, login, "")
        return self._ask("/v2/", login.header)

    def _missing(self, answer: _Answer, challenge: _Challenge) -> Verdict:
        question = self.question

        def tags(repository: str) -> Optional[list[str]]:
            headers = answer.headers
            try:
                if repository != question.repository and challenge.scheme == "bearer":
                    headers = _bearer(self._token(challenge, self.login, f"repository:{repository}:pull"))
                return self._tags(repository, headers)
            except Trouble as trouble:  # only makes the answer shorter
                self.evidence.append(trouble.evidence)
                return None

        def names() -> Sequence[str]:
            organisation = question.repository.partition("/")[0]
            return self.shared.catalog.repositories(organisation) if question.host == judge.NGC else ()

        found = nearest.find(question.host, question.repository, question.reference, tags, names)
        what = f"{'digest' if ':' in question.reference else 'tag'} {question.reference}"
        if found.repository:
            cause = f"{question.host}/{question.repository} has no {what}."
        elif found.repository is None:
            cause = f"{question.host} has no image {question.repository} with the {what}."
        else:
            cause = f"{question.host} has no repository {question.repository}."
        remedy = "Correct the image's name."
        if found.images:
            remedy = f"Set the image to one that exists, such as {found.images[0]}."
        return self._say(Judgement("no_such_image", cause, remedy), names=found.images)

    def _tags(self, repository: str, headers: Mapping[str, str]) -> Optional[list[str]]:
        """All tags, page by page."""
        tags: list[str] = []
        url = f"{_path(repository)}/tags/list?n={PAGE}"
        for _page in range(PAGES):
            reply = self._ask(url, headers)
            if reply.status == 404:
                return []
            if reply.status != 200 or not isinstance(reply.data, dict):
                return tags or None
            tags += [str(tag) for tag in reply.data.get("tags") or []]
            link = re.match(r'\s*<([^>]+)>\s*;\s*rel="?next', reply.headers.get("link", ""))
            url = urljoin(reply.url, link[1]) if link else ""
            # the token is for this registry alone
            if urlsplit(url).netloc != urlsplit(reply.url).netloc:
                break
        return tags

    def _say(self, said: Judgement, *, found: Optional[ImageFacts] = None, names: tuple[str, ...] = ()) -> Verdict:
        return Verdict(said.verdict, said.cause, said.remedy, self.question.image, tuple(self.evidence), found, names)


def _path(repository: str) -> str:
    return f"/v2/{quote(repository)}"


def _bearer(reply: Reply) -> dict[str, str]:
    """The header that a token service's answer is good for; empty where it gave no token."""
    data = reply.data if reply.status == 200 and isinstance(reply.data, dict) else {}
    token = data.get("token") or data.get("access_token")
    return {"Authorization": f"Bearer {token}"} if token else {}


_PARAMETER = re.compile(r'(\w+)="([^"]*)"')


def _challenge(reply: Reply) -> Optional[_Challenge]:
    """What the answer wants; a registry may offer both ways, and Bearer is the one that every client takes."""
    said = reply.headers.get("www-authenticate", "")
    bearer = re.search(r"\bBearer\s+(.*)", said, re.I)
    if bearer:
        given = {name.lower(): value for name, value in _PARAMETER.findall(bearer[1])}
        if urlsplit(given.get("realm", "")).netloc:
            return _Challenge("bearer", given["realm"], given.get("service", ""))
    return _Challenge("basic") if re.search(r"\bBasic\b", said, re.I) else None
