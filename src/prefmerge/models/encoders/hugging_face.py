"""What the encoders from transformers share: loading in float32, names of tensors as files have them, saving.

transformers renames tensors between a model and its files (from version 5 on, ViT's `layers.0.attention.k_proj` is
`encoder.layer.0.attention.attention.key` in a folder). Merging sees files, so `state` has the files' names; they are
found by saving a model's state with a number in place of each tensor. Cost: one forward pass and one small file when a
model is loaded. Not here: models that come with their own code.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xxhash

from prefmerge.config import ModelConfig
from prefmerge.errors import EncoderError, MissingExtra
from prefmerge.ground import atomic, jsons
from prefmerge.ground.refused import lacks_memory, remedy
from prefmerge.models.encoders.protocol import Encoder
from prefmerge.models.encoders.weights import SHOWN, companions, put

if TYPE_CHECKING:
    from torch import Tensor, nn

_VOCABULARIES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "tokenizer.model",
    "spiece.model",
    "spm.model",
    "sentencepiece.bpe.model",
    "bpe.codes",
)


class HuggingFaceEncoder(Encoder):
    """An encoder whose tower holds one transformers model, `tower.model`."""

    def __init__(self, config: ModelConfig, folder: Path) -> None:
        self.name, self.base = config.id, folder
        self._files = companions(folder)
        self._settings = config.model_dump(include={"kind", "pooling", "max_length"})

    def _settle(self, tower: nn.Module, missing: set[str], example: dict[str, Tensor]) -> None:
        """Take a tower whose `missing` parameters (names in the model) were not in the folder; find width and names.

        `example` is a batch of one input. Raises EncoderError where the embedding needs a weight that is missing.
        """
        from prefmerge.models.encoders.towers import settle_unused

        self.tower = tower.float().eval()
        try:
            embedding, absent = settle_unused(tower, example, {f"model.{name}" for name in missing})
        except (ValueError, RuntimeError, AttributeError, TypeError) as error:
            raise EncoderError(
                f"model {self.name!r}: {type(tower.model).__name__} cannot embed an input as its own preprocessing "
                f"makes it: {error}. Check that preprocessor_config.json or the tokenizer belongs to it, and "
                "model.pooling."
            ) from error
        if absent:
            shown = ", ".join(repr(name.removeprefix("model.")) for name in absent[:SHOWN])
            raise EncoderError(
                f"model {self.name!r}: the folder lacks {len(absent)} of the weights that its embeddings need: "
                f"{shown}. Give a folder that holds the whole model."
            )
        self.width = int(embedding.shape[1])
        self._stored_as = _names_in_files(tower.model)
        module: Any = tower.get_submodule("model")
        described = {key: value for key, value in module.config.to_dict().items() if key != "_name_or_path"}
        self.preprocessing = json.dumps(
            {
                "settings": self._settings,
                "files": {path: xxhash.xxh3_64_hexdigest(content) for path, content in sorted(self._files.items())},
                "model": described,
            },
            sort_keys=True,
            default=str,
        )

    def state(self) -> dict[str, Tensor]:
        """The tower's own tensors, not copies."""
        return {
            self._stored_as[name]: tensor.detach()
            for name, tensor in self.tower.get_submodule("model").state_dict().items()
        }

    def load(self, checkpoint: Path) -> None:
        put(checkpoint, self.state(), self.base)

    def save(self, folder: Path) -> None:
        with quiet():
            self.tower.get_submodule("model").save_pretrained(folder)  # pyright: ignore[reportCallIssue]
        for path, content in self._companions().items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)

    def _companions(self) -> dict[str, bytes]:
        """The small files beside the weights, by path in the folder."""
        return self._files


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No progress bars and no reports on stderr from transformers inside: what matters, we say ourselves."""
    from transformers.utils import logging

    bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def loaded(kind: str, folder: Path, name: str) -> tuple[Any, set[str]]:
    """The model in a folder by one of transformers' classes, in float32, and the names of weights that were absent.

    Raises EncoderError where transformers cannot make it, and MissingExtra without transformers.
    """
    transformers = transformers_or_missing()
    with quiet():
        try:
            model, report = getattr(transformers, kind).from_pretrained(folder, output_loading_info=True)
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            if lacks_memory(error):
                raise
            way = remedy(error, "Give a folder as `save_pretrained` writes it.")
            raise EncoderError(
                f"model {name!r}: {folder} cannot be loaded by transformers' {kind}: {error}. {way}"
            ) from error
    return model.float(), set(report["missing_keys"])


def tokenizer_of(folder: Path, name: str) -> Any:
    """The tokenizer in a folder. Raises EncoderError where it has none that can be read."""
    transformers = transformers_or_missing()
    # transformers 5 makes a tokenizer without words where there is no vocabulary, and every text becomes unknown.
    if not any((folder / file).is_file() for file in _VOCABULARIES):
        raise EncoderError(
            f"model {name!r}: no tokenizer in {folder}, expected one of {', '.join(_VOCABULARIES)}. Put the model's "
            "tokenizer.json and tokenizer_config.json beside its weights."
        )
    with quiet():
        try:
            return transformers.AutoTokenizer.from_pretrained(folder)
        except (
            Exception
        ) as error:  # a broken file raises whatever the parser of its format does, Exception itself included
            raise EncoderError(
                f"model {name!r}: the tokenizer in {folder} cannot be loaded: {error}. Put the model's tokenizer.json "
                "and tokenizer_config.json beside its weights."
            ) from error


def in_batches(items: Sequence[str], size: int) -> Iterator[list[str]]:
    """`items` in order, at most `size` at a time."""
    for start in range(0, len(items), size):
        yield list(items[start : start + size])


def transformers_or_missing() -> Any:
    """The library. Raises MissingExtra where it is not installed."""
    try:
        import transformers
    except ImportError:
        raise MissingExtra("an encoder from Hugging Face", "train") from None
    return transformers


def _names_in_files(model: Any) -> dict[str, str]:
    """For each tensor of a model's state, its name in the files that `save_pretrained` writes.

    Raises EncoderError where files hold something else than the model's tensors one by one.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    names = list(model.state_dict())
    numbered = {name: torch.tensor([number]) for number, name in enumerate(names)}
    with atomic.scratch_folder("names-in-files") as scratch, quiet():
        try:
            model.save_pretrained(scratch, state_dict=numbered)
            saved = load_file(scratch / "model.safetensors")
            stored = {names[int(value.item())]: name for name, value in saved.items()}
        except (OSError, SafetensorError) as error:
            raise EncoderError(
                f"{scratch.parent}: temporary files cannot be written ({error}). Make room there, or give another "
                "folder in TMPDIR."
            ) from error
        except (ValueError, RuntimeError) as error:
            stored = {}
            why = str(error)
        else:
            why = "names do not pair one to one"
    if set(stored) != set(names):
        raise EncoderError(
            f"{type(model).__name__}: transformers stores its tensors in another form than it uses them ({why}), "
            "expected one tensor in the file for one of the model. Choose another architecture."
        )
    return stored


def as_json(value: Any) -> bytes:
    """A small file's content."""
    return jsons.encoded(value, indent=2, ascii=False, nan=True)
