# SPDX-License-Identifier: GPL-3.0-or-later
"""The files of config/, filled in."""

from __future__ import annotations

from typing import Any

import jinja2

from rehearsal import layout, system
from rehearsal.layout import SOURCE

_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.FileSystemLoader(SOURCE / "config"), undefined=jinja2.StrictUndefined, keep_trailing_newline=True
)
_ENVIRONMENT.filters["quote"] = lambda text: '"' + str(text).replace("%", "%%") + '"'


def names() -> list[str]:
    """Of the files that they become."""
    return [name.removesuffix(".j2") for name in _ENVIRONMENT.list_templates(extensions=["j2"])]


def render(name: str, values: dict[str, Any]) -> str:
    """``values``: what is not a constant of layout.py or a property of the machine."""
    machine = {"cni_plugins": system.CNI_PLUGINS, "cgroup_version": system.cgroup_version()}
    constants = {key.lower(): getattr(layout, key) for key in dir(layout) if key.isupper()}
    return _ENVIRONMENT.get_template(f"{name}.j2").render({**constants, **machine, **values})
