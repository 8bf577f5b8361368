"""The pages of the reference, made from the code: methods, commands and flags, keys of files, the Python API.

`python -m pages.reference` writes them into docs/. Cost: every command and every public name is imported. Not here:
the table of the methods' parameters, which users can print too (`prefmerge.cli.listing`).
"""

from __future__ import annotations


def pages() -> dict[str, str]:
    """The Markdown of each page, by the name of its file."""
    from pages.reference import commands, keys, python
    from prefmerge.cli import listing

    return {
        "parameters.md": listing.page(),
        "commands.md": commands.page(),
        "keys.md": keys.page(),
        "python.md": python.page(),
    }
