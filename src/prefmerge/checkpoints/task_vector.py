"""Files that hold a task vector, tau = theta_t - theta_0, instead of a model.

Such a file is a checkpoint like any other whose safetensors metadata says so and names, by content fingerprint, the
base that the vector belongs to. Unscaled, float32, every tensor: so MAGMAX can be carried on from it exactly. Not
here: formats without metadata.
"""

from __future__ import annotations

from prefmerge.checkpoints.protocol import Checkpoint
from prefmerge.errors import CheckpointCorrupt

KIND_KEY = "prefmerge.kind"
BASE_KEY = "prefmerge.base"
TASK_VECTOR = "task_vector"


def is_task_vector(checkpoint: Checkpoint) -> bool:
    """Whether `checkpoint` says that it holds a task vector."""
    return checkpoint.metadata.get(KIND_KEY) == TASK_VECTOR


def base_fingerprint(checkpoint: Checkpoint) -> str:
    """The content fingerprint of the base that a task vector belongs to. Raises CheckpointCorrupt where the file does
    not say."""
    base = checkpoint.metadata.get(BASE_KEY)
    if not base:
        raise CheckpointCorrupt(
            f"{checkpoint.path or checkpoint.name}: a task vector whose metadata names no base ({BASE_KEY!r}). "
            "Make it again with --as-task-vector."
        )
    return base


def task_vector_metadata(base_fingerprint: str) -> dict[str, str]:
    """The metadata with which a task vector over the base with this content fingerprint is written."""
    return {KIND_KEY: TASK_VECTOR, BASE_KEY: base_fingerprint}
