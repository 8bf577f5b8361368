"""What a user has of the target, as it lies on disk: labels, inputs, both; and the same of the tasks.

labels.py       labels and their counts, and the classes that they name
inputs.py       inputs, with and without labels
embeddings.py   embeddings, for those who encode by themselves
files.py        what these read: lines, columns by their names, JSON that is checked

No torch. Not here: encoding (`models.features`), what it all means (`shares`, `similarity`).
"""

from prefmerge.target.given.embeddings import EMBEDDED, embedding_names, read_embeddings
from prefmerge.target.given.inputs import (
    chosen,
    chosen_at,
    labels_of,
    read_inputs,
    read_labelled,
    read_pairs,
    task_sources,
    within_most,
)
from prefmerge.target.given.labels import Matched, matched, read_labels, read_task_labels

__all__ = [
    "EMBEDDED",
    "Matched",
    "chosen",
    "chosen_at",
    "embedding_names",
    "labels_of",
    "matched",
    "read_embeddings",
    "read_inputs",
    "read_labelled",
    "read_labels",
    "read_pairs",
    "read_task_labels",
    "task_sources",
    "within_most",
]
