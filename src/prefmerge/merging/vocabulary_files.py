"""The files of an output whose vocabulary or chat template is not the base's.

    tokenizer.json          the union's, or that of the model that was named, with the tokens that were added
    config.json             vocab_size; ids of special tokens of the model whose tokenizer it is
    generation_config.json  the same ids
    chat_template.jinja     the template, which tokenizer_config.json has too, for older readers

Cost: these files. Not here: which rows the embeddings have (`rows`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from prefmerge.errors import CheckpointMismatch, RecipeError
from prefmerge.ground import jsons
from prefmerge.ground.words import did_you_mean
from prefmerge.merging.plan import Plan
from prefmerge.merging.rows import BINARY, OutputVocabulary
from prefmerge.merging.stacks import home_of
from prefmerge.merging.vocabularies import AUTO, BASE, CHAT_TEMPLATE, is_template
from prefmerge.outputs.chat_template import CHATML, CONFIG, FILE, KEY, most_frequent, template_in
from prefmerge.outputs.companions import Companions
from prefmerge.outputs.tokenizer import ids_in, tokenizer_files, with_files
from prefmerge.outputs.vocabulary import Vocabulary

_TEMPLATES = {"chatml": CHATML}
# Older files of a tokenizer, which say nothing of tokens that were added to its tokenizer.json.
_OLDER = ("vocab.json", "merges.txt", "vocab.txt", "added_tokens.json", "tokenizer.json")


@dataclass(frozen=True)
class VocabularyFiles:
    """What the files of an output say beside what its base's say. `written`: files of their own."""

    companions: Companions
    written: Mapping[str, bytes] = field(default_factory=dict)
    rows: tuple[int, int] | None = None  # the base's, the output's
    special: Mapping[str, Any] = field(default_factory=dict)  # ids of special tokens, by their keys in a config
    moved: Mapping[int, int] = field(default_factory=dict)  # the base's ids -> the output's, of those that it has
    template: str | None = None
    added: tuple[Mapping[str, Any], ...] = ()

    def adapted(self, name: str, content: bytes | Path) -> bytes | Path:
        """A file of the output, as it is to be."""
        file = PurePosixPath(name).name
        if file not in ("config.json", "generation_config.json", CONFIG):
            return content
        value = jsons.decoded(content, nan=True) if isinstance(content, bytes) else jsons.peek(content)
        if not isinstance(value, dict):
            return content
        if file == CONFIG:
            changed = self._tokenizer_config(value)
        else:
            changed = {key: self._special(key, own) for key, own in value.items()}
            if file == "config.json" and self.rows is not None:
                changed = _with_rows(changed, *self.rows)
        return content if changed == value else jsons.encoded(changed, indent=2, ascii=False, nan=True)

    def _special(self, key: str, value: Any) -> Any:
        """What a config says, with the ids of special tokens that the output's tokenizer has."""
        if not key.endswith("_token_id"):
            return value
        if isinstance(value, list):
            moved: Any = [self.moved.get(one, one) if type(one) is int else one for one in value]
        else:
            moved = self.moved.get(value, value) if type(value) is int else value
        return self.special.get(key, moved)

    def _tokenizer_config(self, config: dict[str, Any]) -> dict[str, Any]:
        changed = dict(config)
        if self.template is not None:
            changed[KEY] = self.template
        known = config.get("added_tokens_decoder")
        if isinstance(known, dict) and self.added:
            more = {str(token["id"]): {key: own for key, own in token.items() if key != "id"} for token in self.added}
            changed["added_tokens_decoder"] = {**known, **{at: own for at, own in more.items() if at not in known}}
        return changed


def vocabulary_files(planned: Plan, companions: Companions, *, keep_tokenizer: bool = False) -> VocabularyFiles:
    """What goes beside the weights of a plan. `keep_tokenizer`: the companions have the one that the user wants."""
    output, notes = planned.vocabulary, list(companions.more)
    files = VocabularyFiles(companions)
    if output is not None:
        rows = None if output.rows == output.before else (output.before, output.rows)
        files = replace(files, rows=rows)
        if not keep_tokenizer:
            files = _with_tokenizer(files, planned, output, notes)
    template, whose = _template(planned)
    if whose:
        notes.append(f"the chat template is {whose}.")
    if template is not None:
        written = {**files.written, FILE: template.encode()}
        if CONFIG not in files.companions.files:
            written[CONFIG] = jsons.encoded({KEY: template}, indent=2, ascii=False)
        files = replace(files, written=written, template=template)
    return replace(files, companions=replace(files.companions, more=tuple(notes)))


def require_template(planned: Plan) -> None:
    """Raise RecipeError or CheckpointMismatch where an output folder could not get the chat template that is asked
    for.
    """
    _template(planned)


def _with_tokenizer(
    files: VocabularyFiles, planned: Plan, output: OutputVocabulary, notes: list[str]
) -> VocabularyFiles:
    """With the tokenizer that the output's rows belong to."""
    companions, vocabulary = files.companions, output.vocabulary
    if output.task is not None:
        task = planned.tasks[output.task].checkpoint
        own = tokenizer_files(home_of(task))
        if own:
            notes.append(f"the tokenizer is that of task {planned.names[output.task]!r}.")
            files = replace(files, special=_special_ids(home_of(task).path), moved=_moved(planned, vocabulary))
            companions = with_files(companions, own)
    if vocabulary is not None and vocabulary.extended:
        of_sentencepiece = {name for name in companions.files if name.endswith(BINARY)}
        older = {*_OLDER, *of_sentencepiece}
        kept = {name: path for name, path in companions.files.items() if name not in older}
        companions = replace(companions, files=kept)
        files = replace(files, written={"tokenizer.json": _encoded(vocabulary)}, added=tuple(vocabulary.added))
    return replace(files, companions=companions)


def _moved(planned: Plan, vocabulary: Vocabulary | None) -> dict[int, int]:
    """The ids that the base's tokens have in the output."""
    if vocabulary is None:
        return {}
    before = ids_in(tokenizer_files(planned.home))
    return {at: vocabulary.ids[token] for token, at in before.items() if token in vocabulary.ids}


def _encoded(vocabulary: Vocabulary) -> bytes:
    return jsons.encoded(vocabulary.whole, indent=2, ascii=False)


def _special_ids(folder: Path | None) -> dict[str, Any]:
    """The ids of special tokens that the configs of a folder state."""
    special: dict[str, Any] = {}
    for name in ("generation_config.json", "config.json"):
        config = None if folder is None else jsons.peek(folder / name)
        if isinstance(config, dict):
            special |= {key: value for key, value in config.items() if key.endswith("_token_id") and value is not None}
    return special


def _with_rows(config: dict[str, Any], before: int, rows: int) -> dict[str, Any]:
    """A config with the size of the output's vocabulary, in a part of it where that is the language model."""
    parts = {key: value for key, value in config.items() if isinstance(value, dict)}
    changed: dict[str, Any] = {
        key: _with_rows(part, before, rows) for key, part in parts.items() if _states(part, before)
    }
    if config.get("vocab_size") == before or not changed:
        changed["vocab_size"] = rows
    return {**config, **changed}


def _states(config: Mapping[str, Any], rows: int) -> bool:
    return config.get("vocab_size") == rows or any(_states(p, rows) for p in config.values() if isinstance(p, dict))


def _template(planned: Plan) -> tuple[str | None, str]:
    """The chat template that is asked for, and whose it is; None where none is asked for, or no model has one."""
    asked = planned.recipe[CHAT_TEMPLATE]
    if asked is None:
        return None, ""
    if is_template(asked):
        return asked, "the one that was given"
    models = {BASE: planned.given_base}
    models |= {name: own.checkpoint for name, own in zip(planned.names, planned.tasks, strict=True)}
    if asked == AUTO:
        template = most_frequent([template_in(tokenizer_files(home_of(one))) for one in models.values()])
        return template, "that of most models" if template else "none: no model has one"
    if asked in models:
        template = template_in(tokenizer_files(home_of(models[asked])))
        if template is None:
            raise CheckpointMismatch(f"{CHAT_TEMPLATE.spelled}: {asked} has no chat template. Name another model.")
        return template, f"that of {asked}"
    if asked in _TEMPLATES:
        return _TEMPLATES[asked], asked
    known = [AUTO, *_TEMPLATES, *models]
    raise RecipeError(
        f"{CHAT_TEMPLATE.spelled}: {asked!r} is no chat template that prefmerge has, and none of the models."
        f"{did_you_mean(asked, known)} Expected {', '.join(known)}, or the text of a template."
    )
