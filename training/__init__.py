# SPDX-License-Identifier: GPL-3.0-or-later
"""Training of the compact engine: synthetic scenes, the network's training and its evaluation.

Never part of the extension's zip.
"""
