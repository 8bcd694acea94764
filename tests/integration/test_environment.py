# SPDX-License-Identifier: GPL-3.0-or-later
"""Playbooks run with the Ansible and the Python of the environment that the tests run in."""

from __future__ import annotations

import importlib.metadata
import os
import sys

import pytest


@pytest.mark.matrix
def test_playbooks_run_in_the_environment_of_the_tests(play):
    said = "{{ ansible_version.full }} {{ ansible_playbook_python | dirname }}"
    told = play({"ansible.builtin.debug": {"msg": said}}).result
    assert told["msg"] == f"{importlib.metadata.version('ansible-core')} {os.path.dirname(sys.executable)}"
