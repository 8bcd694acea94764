# SPDX-License-Identifier: BSD-2-Clause
# Copyright: Contributors to gpuops.nim
"""The pod has a node and does not start, or ends again and again."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from ..states import (
    CONFIG_REASONS,
    CRASH_REASON,
    Object,
    main_container,
    moment,
    pod_events,
)
from . import logs, quote
from .model import LOG_LINES, Case, Context, Finding, Rule, container_of, env_of, env_secrets, failed_probes, unready

# -- config-error

CONFIG = Rule(
    "config-error",
    "The kubelet can't make a container: `CreateContainerConfigError`, `CreateContainerError`, `RunContainerError`.",
    (
        Case(
            "hf-token",
            r"couldn't find key (?P<what>HF_TOKEN) in secret (?P<owner>\S+)",
            "the secret {owner} has no key HF_TOKEN, which the serving runtime asks for though the model is NGC's.",
            (
                "add it, an empty value will do: kubectl -n {namespace} patch secret {owner} --type=merge "
                '-p \'{{"stringData":{{"HF_TOKEN":""}}}}\''
            ),
            "couldn't find key HF_TOKEN in Secret default/nvidia-nim-secrets",
        ),
        Case(
            "secret-key",
            r"couldn't find key (?P<what>\S+) in secret (?P<owner>\S+)",
            "the secret {owner} has no key {what}.",
            (
                "write it with nim_secret, or name the right key: env_from_secret: {{{what}: {{secret: {owner}, "
                "key: KEY}}}}"
            ),
            "couldn't find key NGC_API_KEY in Secret default/nvidia-nim-secrets",
        ),
        Case(
            "secret",
            r'secret "(?P<what>[^"]+)" not found',
            "the secret {what} does not exist in namespace {namespace}.",
            "write it with nim_secret (namespaces: [{namespace}]), or correct env_from_secret",
            'secret "nvidia-nim-secrets" not found',
        ),
        Case(
            "configmap-key",
            r"couldn't find key (?P<what>\S+) in configmap (?P<owner>\S+)",
            "the ConfigMap {owner} has no key {what}.",
            "correct the reference in pod_patch, or add the key",
            "couldn't find key MODE in ConfigMap default/settings",
        ),
        Case(
            "configmap",
            r'configmap "(?P<what>[^"]+)" not found',
            "the ConfigMap {what} does not exist in namespace {namespace}.",
            "create it, or correct the reference in pod_patch",
            'configmap "settings" not found',
        ),
        Case(
            "run-as-root",
            r"runasnonroot|will run as root|non-root policy",
            "the image would run as root, which runAsNonRoot forbids.",
            "set security_context.runAsUser: 1000, NIM's own user",
            "container has runAsNonRoot and image will run as root",
        ),
        Case(
            "architecture",
            r"exec format error",
            "the image is built for another processor than the node's.",
            (
                "use an image with a build for it, or a node of another architecture through node_selector "
                "(kubernetes.io/arch)"
            ),
            "runc create failed: unable to start container process: exec /opt/nim/start-server.sh: exec format error",
        ),
        Case(
            "command",
            r"executable file not found|exec: .{0,120}(no such file or directory|permission denied)",
            "the command that the container is told to run is not in the image.",
            "take command out of pod_patch, or write it as the image has it",
            'unable to start container process: exec: "nim-serve": executable file not found in $PATH: unknown',
        ),
        Case(
            "gpu-runtime",
            r"nvidia-container|\bnvml\b|libnvidia|\bcdi\b|nvidia\.com/gpu",
            "the container runtime can't hand a GPU to the container.",
            (
                "look at the message; on the node check the driver (nvidia-smi) and the NVIDIA container toolkit "
                "(nvidia-ctk runtime configure, nvidia-ctk cdi generate)"
            ),
            "nvidia-container-cli: initialization error: nvml error: driver not loaded: unknown",
            lasting=True,
        ),
        Case(
            "runtime",
            r"no runtime for|oci runtime|failed to create (shim|containerd) task",
            "the container runtime can't start the container.",
            "look at the message; for GPUs the NVIDIA container toolkit must be set up on the node",
            "failed to create containerd task: failed to create shim task: OCI runtime create failed: unknown",
            lasting=True,
        ),
        Case(
            "stale",
            None,
            "the container waits for a secret or a key that has been written since.",
            "nothing, it is tried again within a minute",
            "the Secret that the message names was changed after the container's last event Failed",
            heals=True,
            severity="warning",
            confidence="likely",
        ),
        Case(
            "other",
            r"",
            "the container can't be made.",
            "look at the message",
            "CreateContainerError: context deadline exceeded",
            lasting=True,
            confidence="likely",
        ),
    ),
)


def config_error(pod: Object, context: Context) -> Iterator[Finding]:
    for status in unready(pod):
        waiting = status.get("state", {}).get("waiting", {})
        if waiting.get("reason") not in CONFIG_REASONS:
            continue
        known = CONFIG.first(str(waiting.get("message") or ""))
        if known:
            case, values = known
            names = {key: value.rpartition("/")[2] for key, value in values.items()}
            evidence = [quote.container(pod, status)]
            tries = pod_events(pod, context.seen.events, "Failed")
            secret = names.get("owner" if case.variant in ("secret-key", "hf-token") else "what", "")
            changed = context.changed_since([secret], quote.time(tries[-1]) if tries else None)
            if case.variant in ("secret", "secret-key", "hf-token") and changed:
                case, evidence = CONFIG.case("stale"), [*evidence, *changed]
            yield CONFIG.finding(case, evidence, pod, **names)


# -- out-of-memory

MEMORY = Rule(
    "out-of-memory",
    "The kernel has ended a container for want of memory.",
    (
        Case(
            "memory-limit",
            None,
            (
                "the kernel ended container {container} because it reached its memory limit of {limit} "
                "(exit code {code})."
            ),
            (
                "set memory higher; /dev/shm (share_memory) counts inside it. As a rule: 10 GB, plus "
                "share_memory, plus 2 GB for each billion of the model's parameters"
            ),
            "the container's last state is OOMKilled",
        ),
        Case(
            "node",
            None,
            "the node ran out of memory, and the kernel ended container {container}.",
            (
                "let requests be what is really used, so that less is put on the node: kubectl describe node "
                "{node}; or "
                "take a node with more memory"
            ),
            "exit code 137, and the node's event SystemOOM",
            confidence="likely",
        ),
    ),
)


def out_of_memory(pod: Object, context: Context) -> Iterator[Finding]:
    for status in unready(pod):
        ended = _ended(status)
        spec, name = container_of(pod, status.get("name", "")), str(status.get("name"))
        limit = spec.get("resources", {}).get("limits", {}).get("memory")
        # The state Running means that it tries again; the second end will show here.
        heals = "running" in status.get("state", {})
        said = f"container {name} of pod {pod['metadata']['name']}: {ended.get('reason')}, restarts: "
        evidence = [f"{said}{status.get('restartCount', 0)}"]
        if ended.get("reason") == "OOMKilled":
            case = MEMORY.case("memory-limit")
            values = {"limit": str(limit or "?"), "code": str(ended.get("exitCode", 137))}
        elif ended.get("exitCode") == 137 and (starved := _of_node(pod, context, "SystemOOM")):
            case, values = MEMORY.case("node"), {"node": str(pod["spec"].get("nodeName"))}
            evidence += starved
        else:
            continue
        yield MEMORY.finding(replace(case, heals=heals), evidence, pod, container=name, **values)


def _ended(status: Object) -> Object:
    """How the container's last run ended, unless it runs again."""
    state = status.get("state", {})
    ended: Object = state.get("terminated") or status.get("lastState", {}).get("terminated") or {}
    return ended


def _of_node(pod: Object, context: Context, pattern: str) -> list[str]:
    """What events say of the pod's node that fits the pattern."""
    name = pod.get("spec", {}).get("nodeName")
    return [
        quote.event(event)
        for event in context.around.node_events
        if event.get("involvedObject", {}).get("name") == name
        and re.search(pattern, f"{event.get('reason')} {event.get('message')}", re.I)
    ][-2:]


# -- crash-loop

CRASH = Rule(
    "crash-loop",
    "A container ends again and again; its log, a probe or its exit code says why.",
    (
        *logs.CASES,
        Case(
            "startup-probe",
            None,
            "the model was not loaded when the startup window ended, so Kubernetes restarted the container.",
            "set startup_timeout higher; with a cache claim the next start goes on where the download ended",
            "Killing: Container kserve-container failed startup probe, will be restarted",
        ),
        Case(
            "liveness-probe",
            None,
            "NIM did not answer in time when it was asked whether it lives, so Kubernetes restarted the container.",
            (
                "if it was still loading set startup_timeout (a startup probe) so that nobody asks before; "
                "else see its "
                "log for why it hung"
            ),
            "Killing: Container kserve-container failed liveness probe, will be restarted",
        ),
        Case(
            "stale",
            None,
            "the pod still waits in its back-off, though the secret with the key was repaired after its last start.",
            "a new pod tries at once: kubectl -n {namespace} delete pod {name}; nim_kserve does it by itself",
            "the secret that an environment variable is taken from was changed after the container's last start",
            heals=True,
            severity="warning",
            confidence="likely",
        ),
        Case(
            "ended",
            None,
            "container {container} ended without an error; a server does not end.",
            "see that command and args start the server: kubectl -n {namespace} logs {name} -c {container} --previous",
            "the container's last state is Completed, exit code 0",
            confidence="likely",
        ),
        Case(
            "exit",
            None,
            "container {container} ended {times} times, last with exit code {code}.",
            "read why it ended: kubectl -n {namespace} logs {name} -c {container} --previous",
            "the container's last state is Error, exit code 1, and nothing known is in its log",
            confidence="possible",
        ),
    ),
)
LOADING = Rule(
    "loading",
    "A container runs, is not ready, and its log has one of the troubles of `crash-loop` at its end.",
    tuple(
        replace(case, heals=True, severity="warning", confidence="possible")
        for case in (*logs.DOWNLOAD, *logs.DISK[:2])
    ),
)
_OF_A_SECRET = ("key-missing", "key-malformed", "hf-token", "entitlement", "key", "right")
_TAIL = 5  # so many last lines are what a loading container does now
_NO_LOG = re.compile(r"$|\(the log can't be read|unable to retrieve container logs")
_PROBES = (("startup-probe", "failed startup probe"), ("liveness-probe", "failed liveness probe"))


def crash_loop(pod: Object, context: Context) -> Iterator[Finding]:
    for status in unready(pod):
        ended, restarts = _ended(status), status.get("restartCount", 0)
        waiting = status.get("state", {}).get("waiting", {}).get("reason") == CRASH_REASON
        name, code = str(status.get("name")), ended.get("exitCode")
        text = context.logs.get(str(pod["metadata"].get("uid")), "")
        lines = [line for line in [*text.splitlines(), str(ended.get("message") or "")] if line.strip()]
        case, evidence = _why_ended(pod, context, code, lines)
        changed = context.changed_since(env_secrets(pod), moment(ended.get("startedAt")))
        if case.variant in _OF_A_SECRET and changed:
            case, evidence = CRASH.case("stale"), [*evidence, *changed]
        # Between two tries it is no less of a loop. One end alone is none, unless it says what will end the next too.
        unknown = case.variant in ("exit", "ended")
        if not waiting and (
            not ended or (code == 0 and restarts < 2) or (unknown and (restarts < 2 or _NO_LOG.match(text)))
        ):
            continue
        yield CRASH.finding(
            case if waiting else replace(case, heals=True),
            evidence or [f"exit code {code}"],
            pod,
            container=name,
            times=str(restarts + 1),
            code="unknown" if code is None else str(code),
            node=str(pod["spec"].get("nodeName", "")),
        )


def after_a_fault(pod: Object, context: Context) -> Iterator[Finding]:
    """A ready pod whose last run ended with a fault of the GPU: this run has the same one."""
    lines = context.logs.get(str(pod["metadata"].get("uid")), "").splitlines()
    told = _told([CRASH.case("gpu-fault")], pod, lines)
    if told and main_container(pod).get("restartCount"):
        case = replace(told[0], heals=True, severity="warning")
        evidence = [*quote.log(pod, told[1]), *_of_node(pod, context, r"\bxid\b")]
        yield CRASH.finding(case, evidence, pod, node=str(pod["spec"].get("nodeName", "")))


def _why_ended(pod: Object, context: Context, code: int | None, lines: Sequence[str]) -> tuple[Case, list[str]]:
    """The case, and what shows it: what Kubernetes did, then the log, then the node, then the exit code."""
    killed = _killed(pod, context) if code in (0, 137, 143) else {}  # 0: who obeys SIGTERM
    if killed:
        variant, said = next(iter(killed.items()))
        return CRASH.case(variant), [*said[-1:], *quote.log(pod, lines[1 - LOG_LINES :])]
    if told := _told(logs.CASES, pod, lines):
        return told[0], [*quote.log(pod, told[1]), *_of_node(pod, context, r"\bxid\b")]
    if xid := _of_node(pod, context, r"\bxid\b"):
        return CRASH.case("gpu-fault"), [*xid, *quote.log(pod, lines[2 - LOG_LINES :])]
    if code == 135:  # SIGBUS
        return CRASH.case("share-memory"), ["exit code 135 (bus error)", *quote.log(pod, lines[-5:])]
    return CRASH.case("ended" if code == 0 else "exit"), quote.log(pod, lines[-LOG_LINES:])


def loading(pod: Object, context: Context) -> Iterator[Finding]:
    if "running" not in main_container(pod).get("state", {}):
        return
    text = context.around.own_logs.get(str(pod["metadata"].get("uid")), "")
    lines = [line for line in text.splitlines() if line.strip()][-_TAIL:]
    told = _told(LOADING.cases, pod, lines)
    if told:
        yield LOADING.finding(told[0], quote.log(pod, told[1]), pod)


def _killed(pod: Object, context: Context) -> dict[str, list[str]]:
    """Which probes have ended containers of the pod, with what was said of it."""
    events = pod_events(pod, context.seen.events, "Killing")
    found = {
        variant: [quote.event(event) for event in events if words in str(event.get("message"))]
        for variant, words in _PROBES
    }
    return {variant: said for variant, said in found.items() if said}


def _told(cases: Sequence[Case], pod: Object, lines: Sequence[str]) -> tuple[Case, list[str]] | None:
    """The first case that the log tells, with the lines that do; a pattern may go over the end of a line."""
    text = "\n".join(lines)
    for case in cases:
        found = [] if case.pattern is None else list(re.finditer(case.pattern, text, re.I))
        if not found:
            continue
        said = dict.fromkeys(
            line for match in found for line in text[_line_start(text, match) : _line_end(text, match)].split("\n")
        )
        return _by_spec(case, pod), list(said)[-3:]
    return None


def _line_start(text: str, match: re.Match[str]) -> int:
    return text.rfind("\n", 0, match.start()) + 1


def _line_end(text: str, match: re.Match[str]) -> int:
    end = text.find("\n", match.end())
    return len(text) if end < 0 else end


def _by_spec(case: Case, pod: Object) -> Case:
    """Tell apart by the pod's specification what the log says in the same words."""
    container = container_of(pod)
    env = env_of(container)
    if case.variant == "cache-not-writable":
        cache = str(env.get("NIM_CACHE_PATH", {}).get("value") or "/opt/nim/.cache")
        mounts = [mount for mount in container.get("volumeMounts") or () if _holds(str(mount.get("mountPath")), cache)]
        if mounts and max(mounts, key=lambda mount: len(str(mount.get("mountPath")))).get("readOnly"):
            return CRASH.case("cache-read-only")
    if case.variant == "profile" and "NIM_PEFT_SOURCE" in env:
        return CRASH.case("lora-profile")
    return case


def _holds(folder: str, path: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


# -- probe

PROBE = Rule(
    "probe",
    "NIM runs, and the probe that is to tell whether it is ready does not ask the right thing.",
    (
        Case(
            "wrong-path",
            r"probe failed: http probe failed with statuscode: 40[0145]",
            "the probe asks for a path that NIM does not have, or may not ask, so the pod never gets ready.",
            (
                "let the readiness and startup probes ask /v1/health/ready on NIM's port (without own probes "
                "nim_kserve "
                "does so)"
            ),
            "Readiness probe failed: HTTP probe failed with statuscode: 404",
            heals=True,
            confidence="likely",
            patience=20,
        ),
    ),
)


def wrong_probe(pod: Object, context: Context) -> Iterator[Finding]:
    running = main_container(pod).get("state", {}).get("running")
    asked = [event for event in failed_probes(pod, context) if PROBE.first(str(event.get("message")))]
    if running and asked and not context.young(running.get("startedAt"), PROBE.cases[0]):
        yield PROBE.finding("wrong-path", [quote.event(asked[-1])], pod)
