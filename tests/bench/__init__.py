# SPDX-License-Identifier: GPL-3.0-or-later
"""The collection beside kubernetes.core and kubectl, doing the same work on the same cluster in one run."""
