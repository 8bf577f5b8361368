"""The README as a package index shows it: without what leads nowhere there. All else is in pyproject.toml.

An index has none of the files that the README shows or links to, and no address of the source is known to put before
their names. So a picture becomes its description, and a link its text with the name of the file in the source.
"""

import re
from pathlib import Path

from setuptools import setup

README = Path(__file__).parent / "README.md"
NOTE = """\
> This is the README of the source. The documents that it names are there, and so is what `make` needs; the package
> has neither. From the package: `pip install 'prefmerge[demo]'`, then `prefmerge demo`.
"""
PICTURE = re.compile(r"!\[([^\]]*)\]\((?!https?://)([^)\s]+)\)")
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((?!https?://|mailto:|#)([^)\s#]+)[^)\s]*\)")


def for_an_index(readme: str) -> str:
    """The text without relative pictures and links. Blocks of code stay as they are."""
    title, rest = readme.split("\n", 1)
    parts = re.split(r"((?:^(?: {4}.*)?\n)+)", rest, flags=re.MULTILINE)
    return (
        "\n".join([title, "", NOTE.rstrip()])
        + "\n"
        + "".join(part if _is_code(part) else _told(part) for part in parts)
    )


def _is_code(part: str) -> bool:
    return part.lstrip("\n").startswith("    ")


def _told(text: str) -> str:
    text = PICTURE.sub(lambda found: f"*Picture, `{found[2]}` in the source: {found[1].rstrip('.')}.*", text)
    return LINK.sub(lambda found: found[1] if found[1] == found[2] else f"{found[1]} (`{found[2]}`)", text)


if __name__ == "__main__":  # also where a build runs this file
    setup(
        long_description=for_an_index(README.read_text(encoding="utf-8")), long_description_content_type="text/markdown"
    )
