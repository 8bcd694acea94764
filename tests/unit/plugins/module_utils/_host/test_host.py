# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import tempfile
from pathlib import Path

from ansible_collections.gpuops.nim.plugins.module_utils._host.host import Host, run_program


def test_absolute_links_stay_in_the_root(tree):
    tree.file("/usr/lib/os-release", "ID=inside\n")
    tree.link("/etc/os-release", "/usr/lib/os-release")
    host = Host(str(tree.root), None)
    assert host.read("/etc/os-release") == "ID=inside\n"
    assert host.problems == []


def test_links_do_not_leave_the_root_upwards(tree, tmp_path):
    (tmp_path / "secret").write_text("outside")
    tree.link("/etc/way-out", "../../secret")
    tree.link("/etc/far-out", str(tmp_path / "secret"))
    host = Host(str(tree.root), None)
    assert host.read("/etc/way-out") is None
    assert host.read("/etc/far-out") is None


def test_a_loop_of_links_is_a_problem_and_no_hang(tree):
    tree.link("/etc/one", "two")
    tree.link("/etc/two", "one")
    host = Host(str(tree.root), None)
    assert host.read("/etc/one") is None
    assert [problem["what"] for problem in host.problems] == ["/etc/one"]


def test_what_is_missing_is_no_problem_and_what_cannot_be_read_is_one(tree):
    tree.folder("/etc/a-folder")
    host = Host(str(tree.root), None)
    assert host.read("/etc/missing") is None
    assert host.problems == []
    assert host.read("/etc/a-folder") is None
    assert host.problems == [{"what": "/etc/a-folder", "why": "Is a directory"}]


def test_other_bytes_than_utf_8_are_replaced_and_told(tree):
    tree.file("/etc/latin-1", "caf\xe9=1\n".encode("latin-1"))
    host = Host(str(tree.root), None)
    assert host.read("/etc/latin-1") == "caf\ufffd=1\n"
    assert host.problems == [{"what": "/etc/latin-1", "why": "Not UTF-8 text: other bytes were replaced."}]


def test_a_program_that_fails_is_a_problem_with_its_last_words():
    host = Host("/", run_program)
    assert host.output("ls", "/nowhere/to/be/found") is None
    assert host.output("no-such-program-here") is None
    said = {problem["what"]: problem["why"] for problem in host.problems}
    assert "No such file or directory" in said["ls /nowhere/to/be/found"]
    assert said["no-such-program-here"] == "No such file or directory"


def test_no_program_is_started_for_another_root():
    with tempfile.TemporaryDirectory() as folder:
        host = Host(folder, None)
        assert host.output("touch", f"{folder}/started") is None
        assert list(Path(folder).iterdir()) == []
