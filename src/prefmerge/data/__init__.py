"""Data sets as labelled inputs with ids: registered ones, the hub's, folders of images, CSV."""

from prefmerge.data.examples import Corpus, Examples, Kind, concatenated
from prefmerge.data.load import load_corpus
from prefmerge.data.registry import CLASS_ORDERS, REGISTRY, ClassOrder, Entry, HeldOut, registered

__all__ = [
    "CLASS_ORDERS",
    "REGISTRY",
    "ClassOrder",
    "Corpus",
    "Entry",
    "Examples",
    "HeldOut",
    "Kind",
    "concatenated",
    "load_corpus",
    "registered",
]
