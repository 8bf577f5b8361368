"""Data sets as labelled inputs with ids: registered ones, the hub's, folders of images, CSV. No torch.

examples.py   a split and a data set, read on demand
registry.py   the papers' data sets
load.py       a line of configuration -> a data set
hub.py        the hub, a local copy of it, a folder of images
tables.py     CSV and TSV
rows.py       what these sources have in common
images.py     encoded images to RGB
whole.py      a user's file, read whole or refused
unreadable.py images that cannot be read, found before they are needed
labels.py     labels to classes, by name
scenarios.py  tasks out of data sets
orders.py     the order in which classes and domains are learned
"""

from prefmerge.data.examples import Corpus, Examples, InputKind, concatenated
from prefmerge.data.load import load_corpus
from prefmerge.data.registry import CLASS_ORDERS, REGISTRY, ClassOrder, DataSet, HeldOut, registered

__all__ = [
    "CLASS_ORDERS",
    "REGISTRY",
    "ClassOrder",
    "Corpus",
    "DataSet",
    "Examples",
    "HeldOut",
    "InputKind",
    "concatenated",
    "load_corpus",
    "registered",
]
