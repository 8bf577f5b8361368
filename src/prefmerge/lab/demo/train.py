"""The demo's regime, and a run of `prefmerge.training` with it: theta_t starts from theta_{t-1} and learns two digits.

The recipe of both papers, shortened: REGIME says how, `benchmarks/demo_regimes.py` why. One CPU thread, so that a seed
gives the same bytes on one machine. Cost: about 4 s a task. Not here: states inside a task; after a kill, the task
that was being trained starts again.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from prefmerge.config import DataConfig, FinetuneConfig, ModelConfig, ScenarioConfig, TrainingConfig
from prefmerge.lab.demo.digits import PARTS, TASKS, Digits, scenario_of
from prefmerge.training import run_folder
from prefmerge.training.finetuning import run_tasks
from prefmerge.training.job import TrainingProgress

if TYPE_CHECKING:
    from prefmerge.models.encoders.protocol import Encoder
    from prefmerge.models.heads import Head
    from prefmerge.runs import Run

# Rate, epochs and scale were chosen on validation images of places that are not shown.
REGIME = TrainingConfig(
    learning_rate=1e-4,
    epochs=5,
    logit_scale=10.0,  # half the base's: a two-class loss that keeps its gradient longer
    batch=32,
    warmup_fraction=0.1,  # the papers' fixed 500 steps would outlast every task here
    augmentation=False,
    device="cpu",
    fused=False,
    threads=1,
    workers=0,
    save_every=None,
)


def configuration(seed: int, regime: TrainingConfig = REGIME) -> FinetuneConfig:
    """What the run folder says of itself. Model and data are the demo's own: no name or path leads to them; the run
    keeps what evaluation needs.
    """
    return FinetuneConfig(
        model=ModelConfig(id="prefmerge's demo"),
        data=(DataConfig(name="scikit-learn's digits", kind="image"),),
        scenario=ScenarioConfig(kind="class-incremental", tasks=len(TASKS), class_order="natural"),
        training=regime,
        held_out=2 * PARTS["validation"],  # of a task's two digits
        seed=seed,
    )


def fine_tune_in_sequence(
    encoder: Encoder,
    head: Head,
    digits: Digits,
    out: Path,
    seed: int,
    regime: TrainingConfig = REGIME,
    *,
    force: bool = False,
    progress: Callable[[TrainingProgress], None] | None = None,
) -> Run:
    """theta_1..theta_T in the run folder `out`, from the base that the encoder holds. Raises as `run_tasks` does."""
    config = configuration(seed, regime)
    if not force and run_folder.holds_none_out(out):  # of a version that kept no images: resumed without
        config = config.model_copy(update={"held_out": 0})
    return run_tasks(scenario_of(digits), encoder, lambda: head, config, out, force=force, progress=progress)
