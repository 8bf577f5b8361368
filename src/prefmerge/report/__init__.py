"""The one template of every HTML report: one file, no script, nothing that is loaded, light and dark, phone and paper.

markup.py    text -> HTML: everything from outside is escaped by its type
parts.py     paragraphs, tables, facts, code
charts.py    bars as SVG, each with the table of its numbers behind it
page.py      the page around them; look.css is how it looks
place.py     where a report goes, and how it gets there

Cost: some kilobytes and milliseconds; nothing heavy is imported. Not here: what a report says, which is its owner's.
"""
