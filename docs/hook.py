"""Add the generated reference to the site; MkDocs calls these functions."""

from __future__ import annotations

from functools import cache

from generate.pages import pages
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

_made = cache(pages)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Fill the reference's part of the navigation, which stands empty in the configuration."""
    for entry in config.nav or ():
        if "Reference" in entry:
            entry["Reference"] = list(_made())
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages, which no file holds."""
    for path, text in _made().items():
        files.append(File.generated(config, path, content=text))
    return files
