# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line, ``python -m rehearsal COMMAND``; ``--help`` lists the commands."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys

from rehearsal import cluster, hosts, nodes, packages, toolchain
from rehearsal.errors import RehearsalError
from rehearsal.layout import Layout, url
from rehearsal.progress import Progress
from rehearsal.standins import ngc, nim
from rehearsal.supervision import Supervision

_NIM = "nim"
_PART_COMMANDS = {
    "start": "start a part that was stopped",
    "stop": "stop a part and keep it stopped",
    "freeze": "halt a part without ending it: it accepts connections and never answers",
    "thaw": "let a frozen part go on",
}


def main(arguments: list[str] | None = None) -> int:
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    if options.run is _kubectl:
        options.arguments = rest  # its own options, wherever they stand
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    layout = Layout.from_environment()
    try:
        return int(options.run(layout, options) or 0)
    except RehearsalError as error:
        print(f"rehearsal: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nrehearsal: interrupted; the same command goes on where this one stopped", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m rehearsal", description="A small KServe cluster of real parts on this machine."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, text: str, run: object, add_help: bool = True) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text, add_help=add_help)
        command.set_defaults(run=run)
        return command

    build = add("build", "build the programs into the cache, without starting anything", _build)
    optional = ", ".join(part.name for part in toolchain.OPTIONAL)
    build.add_argument("also", nargs="*", metavar="PART", help=f"an optional part to build besides: {optional}")
    up = add("up", "bring the cluster up (the first time this builds it, about a quarter of an hour)", _up)
    up.add_argument(
        "--kserve",
        default=toolchain.DEFAULT_KSERVE,
        metavar="RELEASE",
        help=f"run this release of KServe: {', '.join(toolchain.KSERVE)} (default: %(default)s)",
    )
    up.add_argument(
        "--bare",
        action="store_true",
        help="a new cluster without KServe and without GPUs, with the images from which roles install both",
    )
    down = add("down", "stop everything and clean the machine; the state is kept for the next up", _down)
    down.add_argument(
        "--purge", action="store_true", help="also forget the cluster: objects, images on the node, volumes; and hosts"
    )
    add("status", "show every part; exit status 1 unless all work", _status)
    logs = add("logs", "show the log of a part", _logs)
    logs.add_argument("part")
    logs.add_argument("-f", "--follow", action="store_true")
    add("kubeconfig", "print the path of the administrator's kubeconfig", lambda layout, _: print(layout.kubeconfig))
    add("kubectl", "run the cluster's own kubectl on it", _kubectl, add_help=False)
    for name, text in _PART_COMMANDS.items():
        command = add(name, text, _on_part)
        command.add_argument("part")
        command.set_defaults(action=name)
    _add_host(add("host", "Debian systems with systemd to run roles on, reached by ssh", _hosts))
    _add_packages(add("packages", "an apt repository of NVIDIA's container toolkit on loopback", _packages))
    _add_fault(add("fault", "make a stand-in misbehave, or let it behave again", _fault))
    return parser


def _add_host(command: argparse.ArgumentParser) -> None:
    actions = command.add_subparsers(metavar="ACTION")
    for name, text, run in (
        ("up", "make the host if there is none of the name, and boot it", _host_up),
        ("down", "stop the host and remove it", _host_down),
        ("stop", "end the host as a power failure would", _host_stop),
        ("ssh", "a shell on the host, or a command", _host_ssh),
    ):
        action = actions.add_parser(name, help=text, description=text)
        action.add_argument("name")
        action.set_defaults(run=run)
        if run is _host_up:
            action.add_argument("--release", choices=hosts.RELEASES, default=hosts.RELEASES[0])
            action.add_argument("--node", action="store_true", help="join it to the bare cluster that is up")
        elif run is _host_ssh:
            action.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND")


def _add_packages(command: argparse.ArgumentParser) -> None:
    actions = command.add_subparsers(metavar="ACTION")
    actions.add_parser("up", help="build the packages and serve them").set_defaults(run=_packages_up)
    actions.add_parser("down", help="stop serving them").set_defaults(run=_packages_down)


def _add_fault(command: argparse.ArgumentParser) -> None:
    names = ", ".join(ngc.TARGETS)
    command.add_argument("target", nargs="?", help=f"what misbehaves: nim, or of NGC {names}; without: show the faults")
    command.add_argument("--fail", metavar="HOW", help=f"of nim: {', '.join(nim.FAILURES)}; some with :SECONDS")
    command.add_argument("--clear", action="store_true", help="behave again; without a target in everything")
    command.add_argument("--status", type=int, help="HTTP status to answer, such as 429 or 503")
    command.add_argument("--retry-after", type=int, metavar="SECONDS", help="Retry-After of that answer")
    command.add_argument("--delay", type=float, default=0, metavar="SECONDS", help="wait before each answer")
    command.add_argument("--hang", action="store_true", help="take requests and never answer")
    command.add_argument("--rate", type=int, metavar="BYTES", help="bytes per second of an answer")
    command.add_argument("--cut", action="store_true", help="end the connection in the middle of an answer")
    command.add_argument("--redirect", metavar="URL", help="send the client there")
    command.add_argument("--html", action="store_true", help="answer with a web page, as a portal does")
    command.add_argument(
        "--refuse-tls", action="store_true", help="of all: no handshake; of less: an answer that is no TLS"
    )
    command.add_argument("--count", type=int, help="hit only so many requests (default: until cleared)")


def _build(layout: Layout, options: argparse.Namespace) -> None:
    toolchain.build(layout, Progress(), *options.also)


def _up(layout: Layout, options: argparse.Namespace) -> None:
    progress = Progress()
    cluster.up(layout, progress, options.kserve, options.bare)
    progress.note(f"The cluster is up. Ingress {url('ingress')}, kubeconfig {layout.kubeconfig}")


def _down(layout: Layout, options: argparse.Namespace) -> None:
    cluster.down(layout, options.purge)


def _status(layout: Layout, _: argparse.Namespace) -> int:
    rows = cluster.status(layout)
    if not rows:
        print("down")
        return 1
    for row in rows:
        print(f"{row['part']:<20}{row['process']:<10}{'works' if row['works'] else 'NO ANSWER':<11}{row['since']}")
    return 0 if all(row["works"] for row in rows) else 1


def _logs(layout: Layout, options: argparse.Namespace) -> None:
    path = layout.logs / f"{options.part}.log"
    if not path.exists():
        known = ", ".join(sorted(log.stem for log in layout.logs.glob("*.log")))
        raise RehearsalError(f"there is no log of {options.part!r}; there are {known or 'none yet'}")
    os.execvp("tail", ["tail", "-n", "200", *(["-F"] if options.follow else []), str(path)])


def _kubectl(layout: Layout, options: argparse.Namespace) -> None:
    tools = toolchain.ready(layout)
    if not tools:
        raise RehearsalError("the programs are not built yet: python -m rehearsal build")
    command = cluster.kubectl_command(layout, tools)
    os.execv(command[0], [*command, *options.arguments])


def _on_part(layout: Layout, options: argparse.Namespace) -> None:
    watched = Supervision(layout)
    if not watched.running():
        raise RehearsalError("the cluster is down: python -m rehearsal up")
    if options.part not in watched.states():
        raise RehearsalError(f"there is no part {options.part!r}; there are {', '.join(watched.states())}")
    getattr(watched, options.action)(options.part)


def _hosts(layout: Layout, _: argparse.Namespace) -> None:
    for name in hosts.names(layout):
        print(f"{name:<30}{'running' if hosts.running(layout, name) else 'stopped'}")


def _host_up(layout: Layout, options: argparse.Namespace) -> None:
    (nodes if options.node else hosts).up(layout, Progress(), options.name, options.release)


def _host_down(layout: Layout, options: argparse.Namespace) -> None:
    nodes.leave(layout, options.name)
    hosts.down(layout, options.name)


def _host_stop(layout: Layout, options: argparse.Namespace) -> None:
    hosts.stop(layout, options.name)


def _host_ssh(layout: Layout, options: argparse.Namespace) -> None:
    if options.name not in (known := hosts.names(layout)):
        raise RehearsalError(f"there is no host {options.name!r}; there are {', '.join(known) or 'none'}")
    command = hosts.ssh_command(layout, options.name)
    os.execvp(command[0], [*command, *options.command])


def _packages(layout: Layout, _: argparse.Namespace) -> None:
    print(f"{packages.ADDRESS} {packages.fingerprint(layout)}")


def _packages_up(layout: Layout, options: argparse.Namespace) -> None:
    packages.up(layout, Progress())
    _packages(layout, options)


def _packages_down(layout: Layout, _: argparse.Namespace) -> None:
    packages.down(layout)


def _fault(layout: Layout, options: argparse.Namespace) -> None:
    if options.target not in (None, _NIM, *ngc.TARGETS):
        raise RehearsalError(f"there is no target {options.target!r}; there are {_NIM}, {', '.join(ngc.TARGETS)}")
    fault = ngc.Fault(**{field.name: getattr(options, field.name) for field in dataclasses.fields(ngc.Fault)})
    if options.clear:
        ngc.clear(layout.ngc_state, options.target)
    elif options.target == _NIM:
        with ngc.editing(layout.ngc_state) as state:
            state.nim = _known_failure(options.fail)
    elif options.target and fault == ngc.Fault():
        raise RehearsalError(
            "say how it misbehaves: --status, --delay, --hang, --rate, --cut, --redirect, --html or --refuse-tls "
            "(or --clear)"
        )
    elif options.target:
        ngc.set_fault(layout.ngc_state, options.target, fault)
    now = ngc.load(layout.ngc_state)
    for target, fault in now.faults.items():
        print(target, {name: value for name, value in dataclasses.asdict(fault).items() if value})
    if now.nim:
        print(_NIM, now.nim)


def _known_failure(text: str | None) -> str:
    if not text or text.partition(":")[0] not in nim.FAILURES:
        raise RehearsalError(f"say how it fails, --fail with one of {', '.join(nim.FAILURES)}")
    return text


if __name__ == "__main__":
    sys.exit(main())
