"""The parameters of `adapt`, `prefer` and `search`: each declared once, and what several commands take in one place.

declared.py   how a parameter is declared and checked; those that several commands share
adapt.py, prefer.py, search.py   the parameters of a command, and what makes no sense together

Importing this loads nothing heavy: help texts are made from it.
"""

from prefmerge.target.parameters.adapt import Metric, Parameters
from prefmerge.target.parameters.declared import Declared, Declaring, declarations
from prefmerge.target.parameters.prefer import PreferParameters
from prefmerge.target.parameters.search import SearchParameters

__all__ = ["Declared", "Declaring", "Metric", "Parameters", "PreferParameters", "SearchParameters", "declarations"]
