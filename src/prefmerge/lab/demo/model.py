"""The demo's encoder and its frozen head: CLIP's zero-shot classifier in small.

    logits = LOGIT_SCALE <e / |e|, h_c>,   e the embedding of an image, h_c the frozen row of digit c

The rows were learned on printed characters, in place of a text tower; base.safetensors and head.safetensors are made by
benchmarks/demo_base.py. Shapes: images (1, 8, 8) in [0, 1], enlarged to IMAGE_SIZE; embeddings (N, EMBED_WIDTH); head
(10, EMBED_WIDTH). Cost: that of the tower. Not here: phrases, crops.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from prefmerge.models.encoders.digits import DigitsEncoder

if TYPE_CHECKING:
    from prefmerge.models.heads import Head

FOLDER = Path(__file__).parent
BASE, HEAD = FOLDER / "base.safetensors", FOLDER / "head.safetensors"


def load_base() -> tuple[DigitsEncoder, Head]:
    """The shipped encoder and its frozen rows of the ten digits."""
    from prefmerge.models.heads import Head

    return DigitsEncoder(BASE), Head.load(HEAD)
