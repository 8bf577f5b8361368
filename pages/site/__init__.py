"""The documents as a site: static HTML that needs no server, no network and nobody else's scripts or fonts.

    python -m pages.site build/site        README, CONTRIBUTING, CHANGELOG and docs/ -> pages, style, search

Markdown is read by markdown-it-py, which is small, does CommonMark and tables, and is installed with rich already;
Pygments, the same, colours code. Cost: a few seconds. Not here: making the documents (`make docs`).
"""
