"""Can a base that knows printed characters only be made from what matplotlib ships? Makes the demo's base and head.

Renders digits and letters of the 22 text fonts that come with matplotlib, distorts them afresh in every batch
(rotation, shear, stretch, shift, smooth displacement, stroke width), reduces them to 8 x 8 counts as the handwritten
digits were reduced, enlarges them to the model's input and trains encoder and head together (AdamW, cosine,
cross-entropy on the scaled cosine). The ten digit rows of the head are then frozen. Never reads scikit-learn's digits.
Same seed, same torch: same bytes. About 12 minutes on one slow core.

    python -m benchmarks.demo_base                       # into src/prefmerge/lab/demo and results/demo_base.json
    python -m benchmarks.demo_base --steps 20 --out DIR  # toy size
"""

from __future__ import annotations

import argparse
import json
import platform
import string
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib.ft2font import FT2Font
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional

from benchmarks import common
from prefmerge.lab.demo.digits import CLASSES
from prefmerge.lab.demo.model import BASE, FOLDER, HEAD
from prefmerge.models.encoders.digits import LOGIT_SCALE, enlarged
from prefmerge.models.encoders.digits_sizes import EMBED_WIDTH
from prefmerge.models.encoders.digits_tower import DigitsTower
from prefmerge.models.heads import Head
from prefmerge.training.steps import learning_rate_at

# Text fonts only: the symbol fonts map letters to other signs, and LastResort draws the same box for everything.
SYMBOLS = ("LastResort", "STIXSiz", "STIXNonUni", "Display", "cmex10", "cmsy10")
# Letters that look like a digit, or like their own capital, would teach the head a difference that is not there.
CHARACTERS = string.digits + "".join(c for c in string.ascii_letters if c not in "OoIlQZzSsckpuvwxy")
CANVAS = 64  # pixels a side of a rendered glyph
GLYPH = 44  # pixels of its longer side
WRITTEN = 32  # pixels a side before the reduction to 8 x 8, as in the handwritten set


def text_fonts() -> list[Path]:
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return [path for path in sorted(folder.glob("*.ttf")) if not any(word in path.name for word in SYMBOLS)]


def render(font: Path, character: str) -> np.ndarray:
    """One glyph, centred, its longer side GLYPH pixels: (CANVAS, CANVAS) float32 in [0, 1]."""
    face = FT2Font(str(font))
    face.set_size(96, 72)
    face.set_text(character, 0.0)
    face.draw_glyphs_to_bitmap(antialiased=True)
    image = np.asarray(face.get_image(), dtype=np.float32) / 255
    rows, columns = np.flatnonzero(image.any(axis=1)), np.flatnonzero(image.any(axis=0))
    image = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    factor = GLYPH / max(image.shape)
    size = [max(1, round(side * factor)) for side in image.shape]
    small = functional.interpolate(torch.from_numpy(image)[None, None], size=size, mode="bilinear", antialias=True)[
        0, 0
    ].numpy()
    canvas = np.zeros((CANVAS, CANVAS), dtype=np.float32)
    top, left = (CANVAS - size[0]) // 2, (CANVAS - size[1]) // 2
    canvas[top : top + size[0], left : left + size[1]] = small
    return canvas


def glyphs() -> tuple[Tensor, Tensor]:
    """All glyphs (G, 1, CANVAS, CANVAS) and the index of each one's character (G,)."""
    pairs = [(font, index) for font in text_fonts() for index in range(len(CHARACTERS))]
    images = np.stack([render(font, CHARACTERS[index]) for font, index in pairs])
    return torch.from_numpy(images)[:, None], torch.tensor([index for _, index in pairs])


def written(images: Tensor, generator: torch.Generator) -> Tensor:
    """Fresh distortions (N, 1, WRITTEN, WRITTEN) in [0, 1] of glyphs (N, 1, CANVAS, CANVAS)."""
    n = len(images)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(shape or (n,), generator=generator) * (high - low) + low

    # Output coordinates -> input coordinates. The glyph spans GLYPH / CANVAS of its canvas; `fill` lets it fill the
    # output as the digits do.
    angle, shear = uniform(-0.35, 0.35), uniform(-0.35, 0.35)
    fill = GLYPH / CANVAS
    stretch_x, stretch_y = fill * uniform(0.85, 1.5), fill * uniform(0.9, 1.3)
    cos, sin = torch.cos(angle), torch.sin(angle)
    row_x = torch.stack([cos * stretch_x, (shear * cos - sin) * stretch_x, uniform(-0.12, 0.12)], dim=1)
    row_y = torch.stack([sin * stretch_y, (shear * sin + cos) * stretch_y, uniform(-0.1, 0.1)], dim=1)
    grid = functional.affine_grid(torch.stack([row_x, row_y], dim=1), [n, 1, WRITTEN, WRITTEN], align_corners=False)
    bend = torch.randn((n, 2, 4, 4), generator=generator) * uniform(0, 0.11, n, 1, 1, 1)
    grid = grid + functional.interpolate(bend, size=WRITTEN, mode="bicubic", align_corners=True).permute(0, 2, 3, 1)

    # Stroke width: blur, then cut at a random level; a low level thickens and a high one thins.
    blurred = functional.avg_pool2d(images, 5, stride=1, padding=2)
    blurred = functional.avg_pool2d(blurred, 3, stride=1, padding=1)
    ink = functional.grid_sample(blurred, grid, align_corners=False)
    level = uniform(0.08, 0.55, n, 1, 1, 1)
    level = torch.minimum(level, ink.amax(dim=(2, 3), keepdim=True) * 0.6)  # a hairline must not vanish
    return torch.sigmoid((ink - level) * 25)


def distort(images: Tensor, generator: torch.Generator) -> Tensor:
    """Fresh distortions of glyphs (N, 1, CANVAS, CANVAS), reduced and enlarged to the model's input (N, 1, 16, 16)."""
    counts = functional.avg_pool2d(written(images, generator), WRITTEN // 8)
    pressure = torch.rand((len(images), 1, 1, 1), generator=generator) * (1.1 - 0.85) + 0.85
    return enlarged((counts * pressure).clamp(0, 1))


def descend(
    leaves: Sequence[Tensor],
    scores_of: Callable[[Tensor], Tensor],
    labels: Tensor,
    *,
    steps: int,
    batch: int,
    peak: float,
    generator: torch.Generator,
) -> float:
    """Train `leaves` with AdamW and a cosine. `scores_of`: scores (N, C) of the glyphs of numbers (N,). Returns the
    accuracy over the last tenth of the (ever fresh) batches.
    """
    optimizer = torch.optim.AdamW(leaves, lr=peak, weight_decay=0.05)
    hits, started = [], time.perf_counter()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(step, steps, max(1, steps // 20), peak)
        pick = torch.randint(len(labels), (batch,), generator=generator)
        scores = scores_of(pick)
        loss = functional.cross_entropy(scores, labels[pick])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(leaves, 1.0)
        optimizer.step()
        hits.append(float((scores.argmax(dim=1) == labels[pick]).float().mean()))
        if step % 200 == 0 or step == steps - 1:
            print(
                f"step {step:5d}/{steps}  loss {loss.item():.3f}  accuracy {np.mean(hits[-200:]):.3f}",
                f" {time.perf_counter() - started:.0f} s",
                flush=True,
            )
    return float(np.mean(hits[-max(1, steps // 10) :]))


def train(steps: int, batch: int, peak: float, seed: int) -> tuple[dict[str, Tensor], Tensor, float]:
    """Encoder, unit-norm head rows of CHARACTERS, and how many printed characters they name correctly."""
    generator = torch.Generator().manual_seed(seed)
    images, labels = glyphs()
    tower = DigitsTower()
    tower.draw(seed)
    rows = torch.randn((len(CHARACTERS), EMBED_WIDTH), generator=generator)
    # The order of the shipped base's own making: that in which norms of gradients are added decides the last bits.
    leaves = [*tower.state_dict(keep_vars=True).values(), rows.requires_grad_()]

    def scores_of(pick: Tensor) -> Tensor:
        embeddings = functional.normalize(tower(distort(images[pick], generator)), dim=-1)
        return LOGIT_SCALE * embeddings @ functional.normalize(rows, dim=1).T

    accuracy = descend(leaves, scores_of, labels, steps=steps, batch=batch, peak=peak, generator=generator)
    return dict(tower.state_dict()), functional.normalize(rows.detach(), dim=1), accuracy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--peak", type=float, default=1e-3, help="learning rate after the warm-up")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=FOLDER)
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # the order of additions, hence the bytes, depends on it
    started = time.perf_counter()
    weights, rows, accuracy = train(arguments.steps, arguments.batch, arguments.peak, arguments.seed)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / BASE.name).write_bytes(save(weights))
    # Of the two kinds of heads that there are: learned with the base, one row a class, out of no text.
    Head(rows[: len(CLASSES)], LOGIT_SCALE, CLASSES, "prototype").save(arguments.out / HEAD.name)
    result = {
        "question": "What does the demo's base know of printed characters?",
        "characters": CHARACTERS,
        "fonts": [path.name for path in text_fonts()],
        "steps": arguments.steps,
        "batch": arguments.batch,
        "peak_learning_rate": arguments.peak,
        "seed": arguments.seed,
        "elements": sum(tensor.numel() for tensor in weights.values()),
        "printed_accuracy": round(accuracy, 4),
        "seconds": round(time.perf_counter() - started),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "matplotlib": matplotlib.__version__,
        },
    }
    target = common.RESULTS if arguments.out == FOLDER else arguments.out
    common.write_result(target / "demo_base.json", result)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
