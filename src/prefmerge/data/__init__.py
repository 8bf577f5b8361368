"""Data sets as labelled inputs with ids: registered ones, the hub's, folders of images, CSV."""

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
