"""Chat templates: which one a model has, which one an output gets.

    auto = the template of most models, of those as frequent the first; chatml; the text of a template

A template is the text of chat_template.jinja or, of older tokenizers, of tokenizer_config.json, where it may be the one
called default. Source of chatml: the format's description (github.com/openai/openai-python, chatml.md). Cost: a small
file for each model. Not here: other templates of one model, such as for tools.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prefmerge.ground import jsons

FILE = "chat_template.jinja"
CONFIG, KEY = "tokenizer_config.json", "chat_template"
CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def template_in(files: Mapping[str, Path]) -> str | None:
    """The template of a tokenizer's files; None where it has none."""
    if FILE in files:
        try:
            return files[FILE].read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            return None
    config: Any = jsons.peek(files[CONFIG]) if CONFIG in files else None
    stated = config.get(KEY) if isinstance(config, dict) else None
    if isinstance(stated, list):
        several = {one.get("name"): one.get("template") for one in stated if isinstance(one, dict)}
        stated = several.get("default")
    return stated if isinstance(stated, str) and stated else None


def most_frequent(templates: Sequence[str | None]) -> str | None:
    """The one that most models have, whatever blanks stand around it."""
    known = [one.strip() for one in templates if one]
    return Counter(known).most_common(1)[0][0] if known else None
