"""What does our training loop cost next to a bare PyTorch loop over the same model and batches?

A BERT of MiniLM's shape (6 layers, width 384, 22 M parameters, random weights) over batches of random tokens, one CPU
thread: forward, cross-entropy with a frozen head, backward, clipping, AdamW. Both loops must first end with the same
weights to float tolerance; then they are timed in turns, whole epochs. Writes `results/training_speed.json`; minutes.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import common

MOST_APART = 1e-3  # root mean square of the difference, of that of what training changed
MOST = 1.10  # times the bare loop: what we promise


def make_parts(layers: int, width: int, samples: int, tokens: int, classes: int, vocabulary: int) -> dict[str, Any]:
    """The tower's configuration, inputs (samples, tokens), labels (samples,) and the head's rows (classes, width)."""
    import torch
    from transformers import BertConfig

    generator = torch.Generator().manual_seed(0)
    config = BertConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=max(1, width // 32),
        intermediate_size=4 * width,
        hidden_dropout_prob=0.0,  # or the two loops could not be compared
        attention_probs_dropout_prob=0.0,
    )
    rows = torch.nn.functional.normalize(torch.randn(classes, width, generator=generator), dim=-1)
    return {
        "config": config,
        "inputs": torch.randint(vocabulary, (samples, tokens), generator=generator),
        "labels": torch.randint(classes, (samples,), generator=generator),
        "rows": rows,
    }


def make_tower(config: Any) -> Any:
    import torch
    from transformers import BertModel

    from prefmerge.models.encoders.towers import SentenceTower

    torch.manual_seed(0)
    return SentenceTower(BertModel(config, add_pooling_layer=False), "mean")


def bare(parts: Mapping[str, Any], batch: int, epochs: int) -> tuple[float, Any]:
    """(seconds, tower) of the loop that one would write by hand."""
    import torch
    from torch.nn import functional

    from prefmerge.training.batches import order_of

    tower = make_tower(parts["config"]).train()
    leaves = list(tower.parameters())
    inputs, labels, rows = parts["inputs"], parts["labels"], parts["rows"]
    mask = torch.ones_like(inputs)
    steps, step = math.ceil(len(labels) / batch) * epochs, 0
    began = time.perf_counter()
    optimizer = torch.optim.AdamW(leaves, lr=1e-4, weight_decay=0.1, fused=True)
    for epoch in range(epochs):
        for chosen in torch.tensor(order_of(len(labels), 0, epoch)).split(batch):
            for group in optimizer.param_groups:
                group["lr"] = 1e-4 * 0.5 * (1 + math.cos(math.pi * step / steps))
            unit = functional.normalize(tower(inputs[chosen], mask[chosen]), dim=-1)
            loss = functional.cross_entropy(20.0 * unit @ rows.T, labels[chosen])
            loss.backward()
            torch.nn.utils.clip_grad_norm_(leaves, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            step += 1
    return time.perf_counter() - began, tower


def ours(parts: Mapping[str, Any], batch: int, epochs: int, state: Path | None = None) -> tuple[float, Any]:
    """(seconds, tower) of `fine_tune`, with reports, and with resumable states where `state` is given."""
    from prefmerge.config import TrainingConfig
    from prefmerge.data.examples import Examples
    from prefmerge.models.heads import Head
    from prefmerge.training.steps import fine_tune

    labels, rows = parts["labels"].numpy(), parts["rows"]
    examples = Examples(tuple(map(str, range(len(labels)))), labels, lambda at: list(at), lambda at: "")
    encoder: Any = Stub(make_tower(parts["config"]), parts["inputs"])
    head = Head(rows, 20.0, tuple(map(str, range(len(rows)))), "prototype")
    recipe = TrainingConfig(batch=batch, learning_rate=1e-4, warmup_steps=0, device="cpu", workers=0)
    began = time.perf_counter()
    fine_tune(
        encoder, head, examples, range(len(rows)), recipe, epochs=epochs, seed=0, state=state, on_step=lambda _: None
    )
    return time.perf_counter() - began, encoder.tower


class Stub:
    """As much of an encoder as training needs: inputs are positions in a tensor of tokens."""

    kind = "text"

    def __init__(self, tower: Any, tokens: Any) -> None:
        self.tower, self.tokens = tower, tokens

    def prepare(self, inputs: Sequence[int], augmentation: object = None, seeds: object = None) -> dict[str, Any]:
        import torch

        ids = self.tokens[torch.as_tensor(inputs)]
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def measure(parts: Mapping[str, Any], batch: int, epochs: int, runs: int) -> dict[str, Any]:
    """Check that both loops end alike, then time them in turns on one thread."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        (_, a), (_, b) = bare(parts, batch, 1), ours(parts, batch, 1)  # also warms up
        start = make_tower(parts["config"])
        apart = _distance(a, b) / _distance(a, start)
        # Sums in another order, no more; a few elements with gradients of rounding noise alone may go anywhere.
        assert apart < MOST_APART, f"the two loops end {apart} of the way that they went apart"
        seconds: dict[str, list[float]] = {"bare": [], "ours": []}
        for _ in range(runs):
            seconds["bare"].append(bare(parts, batch, epochs)[0])
            seconds["ours"].append(ours(parts, batch, epochs)[0])
    finally:
        torch.set_num_threads(threads)
    ratios = [o / b for o, b in zip(seconds["ours"], seconds["bare"], strict=True)]
    return {
        "apart": apart,
        "bare_seconds": common.spread(seconds["bare"]),
        "ours_seconds": common.spread(seconds["ours"]),
        "ratio": common.spread(ratios),
    }


def _distance(a: Any, b: Any) -> float:
    pairs = zip(a.parameters(), b.parameters(), strict=True)
    return math.sqrt(sum(float((p - q).detach().double().square().sum()) for p, q in pairs))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    asked = parser.parse_args(arguments)
    began = common.provenance()
    parts = make_parts(6, 384, 512, 24, 10, 30522)
    data = {"question": common.question(__doc__), **began, "batch": 32, "samples": 512, "epochs": 1}
    data |= measure(parts, 32, 1, asked.runs) | {"promise": MOST}
    common.write_result(common.RESULTS / "training_speed.json", data)
    print(f"{data['ratio']['median']:.3f} x a bare loop (promised: at most {MOST})")


if __name__ == "__main__":
    main()
