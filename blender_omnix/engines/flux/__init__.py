# SPDX-License-Identifier: GPL-3.0-or-later
"""FLUX.1-dev with the OmniX adapters (arXiv 2510.26800)."""
