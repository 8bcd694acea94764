# SPDX-License-Identifier: GPL-3.0-or-later
"""A small Kubernetes cluster of real parts on one plain Linux machine, to rehearse deployments on."""
