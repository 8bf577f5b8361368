"""A search for models that prefmerge cannot run: the user's command scores a candidate, and prints a number.

search.py    the search: starts, trials, budgets, the confirming score, what is left in OUT
space.py     which parameters are searched, and what stands for each
sources.py   the base, the tasks, and a recipe's parameters
scoring.py   candidates written over one reading, scored several at once, each score kept
command.py   the command: its words, its run, its end
guard.py     the program that runs it, and ends it when prefmerge ends
number.py    the number in what it printed
outcome.py   the result: in words and as JSON

Importing this loads neither torch nor optuna.
"""

from prefmerge.target.by_command.outcome import CommandOutcome
from prefmerge.target.by_command.search import search_by_command

__all__ = ["CommandOutcome", "search_by_command"]
