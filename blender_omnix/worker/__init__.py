# SPDX-License-Identifier: GPL-3.0-or-later
"""The background process that extracts maps, and the client that drives it."""
