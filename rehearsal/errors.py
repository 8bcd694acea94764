# SPDX-License-Identifier: GPL-3.0-or-later
"""The one error that the command line prints and exits with."""

from __future__ import annotations


class RehearsalError(Exception):
    """Something a person has to know or do: what was wrong and what would be right."""
