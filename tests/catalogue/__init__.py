# SPDX-License-Identifier: GPL-3.0-or-later
"""What goes wrong with NIM on KServe, how each of it is brought about, and what somebody who knows would call it."""
