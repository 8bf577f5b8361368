"""How much of the target comes from each task, and how sure that is.

tasks.py      what is known of the tasks: classes, training samples, the base's embeddings of some
estimate.py   the result: shares with draws and intervals, or shares that the user states
labels.py     shares out of labels
inputs.py     shares out of inputs, and of inputs with labels
shift.py      which task an input comes from, and the mix that explains many inputs best
doubts.py     what is to be said beside the numbers

Importing this loads neither torch nor scikit-learn.
"""

from prefmerge.target.shares.estimate import PRESENT, Foreign, Origin, Shares, stated
from prefmerge.target.shares.inputs import ENOUGH, from_inputs, from_pairs
from prefmerge.target.shares.labels import from_labels, known_counts
from prefmerge.target.shares.tasks import Tasks

__all__ = [
    "ENOUGH",
    "PRESENT",
    "Foreign",
    "Origin",
    "Shares",
    "Tasks",
    "from_inputs",
    "from_labels",
    "from_pairs",
    "known_counts",
    "stated",
]
