"""Sphinx: plain Markdown pages in the furo theme."""

from __future__ import annotations

import importlib.metadata

project = "bnnkit"
author = "the bnnkit authors"
release = importlib.metadata.version("bnnkit")
extensions = ["myst_parser"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = f"bnnkit {release}"
