"""What an interrupted task resumes from: the model and the optimiser at the end of an epoch.

    FOLDER/state.pt    {"epochs": epochs done, "model": ..., "optimizer": ..., "scaler": of fp16, else None}

The folder is replaced whole, so that a kill leaves the state of the last epoch or of the one before. Nothing else
decides what follows: every random choice is a function of seed, epoch and sample (`batches`, `steps`). All processes
have the same model and optimiser; the main one writes them. Cost: one file, three times as large as the model.
Not here: whose state it is; `run_folder` compares the configuration and the samples first.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefmerge.errors import RunError
from prefmerge.ground import atomic
from prefmerge.training.run_folder import writing

if TYPE_CHECKING:
    from accelerate import Accelerator

FILE = "state.pt"


def save_state(accelerator: Accelerator, tower: Any, optimizer: Any, folder: Path, epochs: int) -> None:
    """Keep what training needs after `epochs` epochs, in place of what was kept before. All processes call this."""
    import torch

    if accelerator.is_main_process:
        state = {
            "epochs": epochs,
            "model": accelerator.unwrap_model(tower).state_dict(),
            "optimizer": optimizer.state_dict(),
            "scaler": None if accelerator.scaler is None else accelerator.scaler.state_dict(),
        }
        with writing(folder.parent), atomic.whole_folder(folder) as new:
            torch.save(state, new / FILE)
    accelerator.wait_for_everyone()


def load_state(accelerator: Accelerator, tower: Any, optimizer: Any, folder: Path) -> int:
    """Load what `save_state` kept, if anything, and return the number of epochs that are done. Raises RunError."""
    import torch

    atomic.recover(folder)
    if not folder.is_dir():
        return 0
    try:
        state = torch.load(folder / FILE, map_location="cpu", weights_only=True)
        accelerator.unwrap_model(tower).load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        if accelerator.scaler is not None:
            accelerator.scaler.load_state_dict(state["scaler"])
        return int(state["epochs"])
    except Exception as error:  # pickles and archives that are damaged raise whatever their readers do
        raise RunError(
            f"{folder}: the state of the interrupted task cannot be read ({type(error).__name__}): it is damaged, or "
            "another version of prefmerge wrote it. Remove this folder: the task then starts from its beginning."
        ) from error
