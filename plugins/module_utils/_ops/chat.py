# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""Asks models as their users would, and says who refused when nobody answers."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Optional

from ansible_collections.gpuops.nim.plugins.module_utils._kube.auth import connect
from ansible_collections.gpuops.nim.plugins.module_utils._kube.client import CONNECTIONS, Client
from ansible_collections.gpuops.nim.plugins.module_utils._kube.errors import KubeError
from ansible_collections.gpuops.nim.plugins.module_utils._ops.door import Door, NotYet, Reply, brief, find_door
from ansible_collections.gpuops.nim.plugins.module_utils._ops.result import OpsError, Progress, Result
from ansible_collections.gpuops.nim.plugins.module_utils._ops.services import entries

Json = dict[str, Any]
# One question. The same options stand at the top level and in the entries of `services`.
QUESTION_ARGUMENTS: Json = {
    "name": {"type": "str"},
    "namespace": {"type": "str", "default": "default"},
    "api": {"type": "str", "choices": ["chat", "embeddings", "ranking"], "default": "chat"},
    "via": {"type": "str", "choices": ["auto", "ingress", "apiserver"], "default": "auto"},
    "address": {"type": "str", "aliases": ["ingress_address"]},
    "host_header": {"type": "str"},
    "tls_ca": {"type": "path"},
    "tls_verify": {"type": "bool", "default": True},
    "model": {"type": "str"},
    "prompt": {"type": "str", "default": "What is the capital of France? Answer in one sentence."},
    "messages": {"type": "list", "elements": "dict"},
    "passages": {
        "type": "list",
        "elements": "str",
        "default": ["Paris is the capital of France.", "Bread is made of flour."],
        "no_log": False,
    },
    "max_tokens": {"type": "int", "default": 64, "no_log": False},
    "temperature": {"type": "float", "default": 0.0},
    "stream": {"type": "bool", "default": True},
    "timeout": {"type": "int", "default": 60},
}
PATHS = {"chat": "/v1/chat/completions", "embeddings": "/v1/embeddings", "ranking": "/v1/ranking"}
SETTLE = 5.0  # seconds; an ingress learns of a new pod a moment after Kubernetes calls it ready


@dataclass
class _Conversation:
    """One question, with one deadline over all of it."""

    door: Door
    deadline: float

    def ask(self, method: str, path: str, body: Optional[Json] = None) -> Reply:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise self.late()
        return self.door.send(method, path, body, left)

    def late(self) -> OpsError:
        return OpsError(
            f"{self.door.where} did not finish its answer in time: raise `timeout`, or ask for fewer `max_tokens`."
        )


def run(params: Mapping[str, Any], *, check_mode: bool, diff: bool, progress: Progress) -> Result:
    """Asks one question, or all services of ``services`` at once. Never changes anything; in check mode it doesn't ask.

    :raises OpsError: no usable answer; the message says whether the way there or the model refused, and what to do.
    :raises KubeError: the API server refused.
    """
    questions = _questions(params)
    if check_mode:
        return Result(False, {"skipped_reason": "A question costs GPU time, so none is asked in check mode."})
    client = connect(params) if any(question["name"] for question in questions) else None
    if params["services"] is None:
        return Result(False, ask(questions[0], client, progress))
    return _ask_all(questions, client, progress)


def ask_service(
    client: Client, namespace: str, name: str, api: str, address: Optional[str], progress: Progress
) -> Json:
    """Ask one service its default question. The result is that of the module.

    :param api: a key of PATHS; ``address``: the ingress's, ``None`` to find it out.
    :raises OpsError: no usable answer.
    """
    question = {option: rules.get("default") for option, rules in QUESTION_ARGUMENTS.items()}
    return ask({**question, "name": name, "namespace": namespace, "api": api, "address": address}, client, progress)


def _questions(params: Mapping[str, Any]) -> list[Json]:
    found: list[Json] = []
    errors: list[str] = []
    for entry, wrong in entries(params, QUESTION_ARGUMENTS, ("services",)):
        question = dict(entry.params)
        if entry.place:
            raw = params["services"][len(found)]
            if not question["name"] and not question["address"]:
                wrong.append(("name", "is needed, or address"))
            if raw.get("prompt") is not None:
                if raw.get("messages") is not None:
                    wrong.append(("prompt", "stands beside messages; give one of the two"))
                question["messages"] = None  # the entry's own prompt goes before messages that all share
        found.append(question)
        wrong = wrong or wrong_in(question)
        errors += [f"{entry.place}.{option}: {text}" if entry.place else f"{option}: {text}" for option, text in wrong]
    if errors:
        raise OpsError("\n".join(errors))
    return found


def wrong_in(question: Json) -> list[tuple[str, str]]:
    """What can't be asked, before anybody is."""
    wrong = [
        (option, f"is {question[option]}, must be 1 or more")
        for option in ("max_tokens", "timeout")
        if question[option] < 1
    ]
    if not 0 <= question["temperature"] <= 2:
        wrong.append(("temperature", f"is {question['temperature']:g}, must be 0 to 2"))
    if question["api"] == "chat" and question["messages"] is None and not str(question["prompt"] or "").strip():
        wrong.append(("prompt", "is empty; it is the question, or give messages"))
    if question["messages"] == []:
        wrong.append(("messages", "is empty; the last one is the question"))
    for number, message in enumerate(question["messages"] or ()):
        if not message.get("role") or message.get("content") is None:
            wrong.append((f"messages[{number}]", "needs role and content, for example {role: user, content: Hello}"))
    if question["api"] == "ranking" and not question["passages"]:
        wrong.append(("passages", "is empty; api ranking puts them in order"))
    return wrong


def _ask_all(questions: Sequence[Json], client: Optional[Client], progress: Progress) -> Result:
    """One result for each question, in their order. One that fails hides no other."""

    def who(question: Json) -> Json:
        return {"name": question["name"], "namespace": question["namespace"] if question["name"] else None}

    def answer(question: Json) -> Json:
        title = _title(question)
        try:
            data = ask(question, client, lambda line: progress(f"[{title}] {line}"))
            return {**who(question), **data, "error": ""}
        except (OpsError, KubeError) as error:
            return {**who(question), **getattr(error, "data", {}), "error": str(error)}

    pool = ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="ask")
    try:
        answers = list(pool.map(answer, questions))
    finally:  # what ends the task early must not wait for those who still think
        pool.shutdown(wait=False, cancel_futures=True)
    data = {"services": answers}
    failed = [(question, answer) for question, answer in zip(questions, answers) if answer["error"]]
    if not failed:
        return Result(False, data)
    head = f"{len(failed)} of {len(answers)} services did not answer.\n" if len(answers) > 1 else ""
    raise OpsError(
        head + "\n".join(f"[{_title(question)}] {answer['error']}" for question, answer in failed), data=data
    )


def _title(question: Json) -> str:
    return f"{question['namespace']}/{question['name']}" if question["name"] else str(question["address"])


def ask(params: Mapping[str, Any], client: Optional[Client], progress: Progress) -> Json:
    """Ask one question; ``params``: QUESTION_ARGUMENTS. The answer, or an error whose data tells how far it came.

    :raises OpsError: no usable answer. Without ``served_models`` in its data no model server was reached.
    :raises KubeError: the API server refused.
    """
    started = time.monotonic()
    with find_door(params, client) as door:
        conversation = _Conversation(door, started + params["timeout"])
        served = _served_models(conversation, started)
        model = params["model"] or served[0]
        data: Json = {
            "model": model,
            "served_models": served,
            "via": door.via,
            "url": door.url(PATHS[params["api"]]),
            "host": door.host,
        }
        if model not in served:
            names = ", ".join(served)
            raise OpsError(f"{door.where} does not serve the model '{model}'. It serves: {names}.", data=data)
        progress(f"asking {model} through the {door.via}")
        try:
            data.update(_ANSWERS[params["api"]](conversation, model, params))
        except OpsError as error:
            error.data = {**data, **error.data}
            raise
        data["seconds"] = _since(started)
        return data


def _served_models(conversation: _Conversation, started: float) -> list[str]:
    settled = min(started + SETTLE, conversation.deadline)
    while True:
        try:
            reply = conversation.ask("GET", "/v1/models")
            answer = reply.read()
        except NotYet:
            if time.monotonic() > settled:
                raise
            time.sleep(0.2)
            continue
        if reply.status == 200:
            break
        if reply.status not in (404, 502, 503) or _message(answer) is not None or time.monotonic() > settled:
            raise _refused(conversation.door, reply, "/v1/models", answer)
        time.sleep(0.2)
    try:
        served = [str(model["id"]) for model in json.loads(answer)["data"]]
    except (ValueError, KeyError, TypeError):
        raise _not_a_model(conversation.door, "/v1/models", answer) from None
    if not served:
        raise OpsError(f"{conversation.door.where} serves no model at all: its /v1/models is empty.")
    return served


def _chat(conversation: _Conversation, model: str, params: Mapping[str, Any]) -> Json:
    body = {
        "model": model,
        "messages": params["messages"] or [{"role": "user", "content": params["prompt"]}],
        "max_tokens": params["max_tokens"],
        "temperature": params["temperature"],
        "stream": params["stream"],
    }
    asked = time.monotonic()
    reply = conversation.ask("POST", PATHS["chat"], body)
    if reply.status != 200:
        raise _refused(conversation.door, reply, PATHS["chat"], reply.read())
    streamed = "event-stream" in reply.headers.get("content-type", "")
    chunks = _events(conversation, reply) if streamed else iter([_json(conversation, PATHS["chat"], reply.read())])
    text: list[str] = []
    first: Optional[float] = None
    finish: Optional[str] = None
    usage: Json = {}
    counted = 0
    for chunk in chunks:
        if time.monotonic() > conversation.deadline:
            raise conversation.late()
        if problem := _problem(chunk):
            raise OpsError(f"{conversation.door.where} broke its answer off: {problem}", data={"answer": "".join(text)})
        usage = chunk.get("usage") or usage
        for choice in (chunk.get("choices") or [])[:1]:
            said = choice.get("delta" if streamed else "message") or {}
            finish = choice.get("finish_reason") or finish
            # a model that thinks first starts with tokens that are not part of the answer
            if said.get("content") or said.get("reasoning_content"):
                first = _since(asked) if first is None else first
                counted += 1
            text.append(said.get("content") or "")
    answer = "".join(text)
    data: Json = {
        "answer": answer,
        "finish_reason": finish,
        # without figures from the server, one chunk of a stream is one token
        "tokens": {
            "prompt": usage.get("prompt_tokens"),
            "completion": usage.get("completion_tokens", counted if streamed else None),
        },
        "seconds_to_first_token": first if streamed else None,
    }
    where = conversation.door.where
    if streamed and not finish:
        raise OpsError(f"{where} closed the connection in the middle of the answer; the pod's log says why.", data=data)
    if not answer.strip():
        remedy = "raise `max_tokens`" if finish == "length" else "try another `prompt`, and see the pod's log"
        raise OpsError(f"{where} answered with no text (finish reason: {finish}): {remedy}.", data=data)
    return data


def _embeddings(conversation: _Conversation, model: str, params: Mapping[str, Any]) -> Json:
    answer = _question(conversation, "embeddings", {"model": model, "input": [params["prompt"]], "input_type": "query"})
    vectors = answer.get("data") or [{}]
    length = len(vectors[0].get("embedding") or ())
    if not length:
        raise OpsError(f"{conversation.door.where} answered without an embedding; see the pod's log.")
    return {"dimensions": length, "tokens": _usage(answer)}


def _ranking(conversation: _Conversation, model: str, params: Mapping[str, Any]) -> Json:
    body = {
        "model": model,
        "query": {"text": params["prompt"]},
        "passages": [{"text": passage} for passage in params["passages"]],
    }
    answer = _question(conversation, "ranking", body)
    rankings = [{"index": one["index"], "logit": one["logit"]} for one in answer.get("rankings") or []]
    if not rankings:
        raise OpsError(f"{conversation.door.where} answered without a ranking; see the pod's log.")
    return {"rankings": rankings, "tokens": _usage(answer)}


_ANSWERS = {"chat": _chat, "embeddings": _embeddings, "ranking": _ranking}


def _question(conversation: _Conversation, api: str, body: Json) -> Json:
    reply = conversation.ask("POST", PATHS[api], body)
    answer = reply.read()
    if reply.status != 200:
        raise _refused(conversation.door, reply, PATHS[api], answer)
    return _json(conversation, PATHS[api], answer)


def _usage(answer: Json) -> Json:
    usage = answer.get("usage") or {}
    return {"prompt": usage.get("prompt_tokens"), "completion": usage.get("completion_tokens")}


def _events(conversation: _Conversation, reply: Reply) -> Iterator[Json]:
    """The JSON of each server-sent event, up to the one that says there are no more."""
    for line in reply.lines():
        if line.startswith(b"data:"):
            event = line[5:].strip()
            if event == b"[DONE]":
                return
            yield _json(conversation, PATHS["chat"], event)


def _json(conversation: _Conversation, path: str, answer: bytes) -> Json:
    try:
        value = json.loads(answer)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise _not_a_model(conversation.door, path, answer)
    return value


def _not_a_model(door: Door, path: str, answer: bytes) -> OpsError:
    return OpsError(
        f"{door.where} answered {path}, but not as a model server does: {brief(answer)}. Is it the right address?"
    )


def _message(answer: bytes) -> Optional[str]:
    """What a model server says in an error; None when the answer isn't from one (an ingress sends text, or nothing)."""
    try:
        value = json.loads(answer)
    except ValueError:
        return None
    if not isinstance(value, dict) or value.get("kind") == "Status":
        return None
    return _problem({**value, "object": "error"})


def _problem(value: Json) -> Optional[str]:
    """The message of an error in any of the shapes that releases of NIM use; None when it is no error."""
    error = value.get("error")
    if error is None and value.get("object") != "error":
        return None
    said = error.get("message") if isinstance(error, dict) else error
    return str(said or value.get("message") or value.get("detail") or "an error without a message")


def _refused(door: Door, reply: Reply, path: str, answer: bytes) -> OpsError:
    said = _message(answer)
    if said is None:
        return door.refused(reply, answer)
    server = f"The model server behind {door.where}"
    if reply.status == 404:
        return OpsError(f"{server} has no {path} ({said}): set `api` to what this kind of model does.")
    if reply.status in (401, 403):
        return OpsError(f"{server} asks for a login ({reply.status}: {said}).")
    if reply.status == 429:
        return OpsError(f"{server} is too busy (429: {said}): try again later, or add replicas.")
    if reply.status == 503:
        return OpsError(f"{server} is not ready yet (503: {said}): wait for the service to be ready.")
    return OpsError(f"{server} refused {path} with {reply.status}: {said}")


def _since(start: float) -> float:
    return round(time.monotonic() - start, 3)
