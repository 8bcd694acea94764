# SPDX-License-Identifier: GPL-3.0-or-later
"""docs/findings.md, written from the rules' own tables: PYTHONPATH=collections python tests/sanity/findings_page.py"""

from __future__ import annotations

import re
from pathlib import Path

from ansible_collections.gpuops.nim.plugins.module_utils._nim import findings

PAGE = Path(__file__).parents[2] / "docs" / "findings.md"
COMMAND = "PYTHONPATH=collections python tests/sanity/findings_page.py"
_HEAD = f"""\
<!-- Written by `{COMMAND}`; change plugins/module_utils/_nim/findings instead. -->
# Findings: why a model is not answering

Each cause that this collection knows by name, as `nim_kserve` and `nim_service_info` return it (`id`, `variant`) and
as `diagnose.yml` shows it. Words in capitals stand for what a finding fills in; options without a module's name are
those of `nim_kserve`.

A finding says how sure it is. *Certain*: the cluster says just this. *Likely*: what was seen fits this best.
*Possible*: nothing else was found. An *error* needs a person, or keeps requests from being answered; a *warning* does
not. A cause that Kubernetes gets over by itself never ends a wait; one that has to last only does after
`unschedulable_grace`.

"""


def page() -> str:
    contents = "\n".join(f"- [{rule.id}](#{rule.id}): {_plain(rule.about)}" for rule in findings.RULES)
    return _HEAD + contents + "\n" + "".join(_section(rule) for rule in findings.RULES)


def _section(rule: findings.Rule) -> str:
    return f"\n## {rule.id}\n\n{rule.about}\n" + "".join(_case(rule, case) for case in rule.cases)


def _case(rule: findings.Rule, case: findings.Case) -> str:
    if case.heals:
        course = "Heals by itself once its reason is gone."
    elif case.lasting:
        course = "Waits for a person, if it lasts."
    else:
        course = "Waits for a person."
    facts = f"{case.severity.capitalize()}, {case.confidence}. {course}"
    looks = case.looks if case.pattern is None else f"`{case.looks}`"
    return f"""
### {rule.id}: {case.variant}

{_sentence(_filled(case.cause))}

- **Looks like:** {looks}
- **What to do:** {_code(_filled(case.remedy))}
- {facts}
"""


def _filled(text: str) -> str:
    """The text of a format, with its names in capitals."""
    return re.sub(r"\{([a-z]+)\}", lambda match: match[1].upper(), text.replace("{{", "{").replace("}}", "}"))


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]


def _code(text: str) -> str:
    """Commands and lines to paste stand out; the latter keep their indentation."""
    first, *lines = text.split("\n")
    return "<br>".join([first, *(f"`{line.strip()}`" if ": {" in line else line.strip() for line in lines)])


def _plain(text: str) -> str:
    return text.split(": `")[0].rstrip(".") + "."


if __name__ == "__main__":
    PAGE.write_text(page())
