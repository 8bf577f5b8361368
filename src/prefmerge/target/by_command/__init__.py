"""For models that prefmerge cannot run: the user's command scores a candidate, and prints a number.

search.py    the search: starts, trials, what is left in OUT;  space.py   which parameters are searched
adapting.py  `adapt`'s candidates for the target's shares, scored
judge.py     budgets, the confirming score, and the choice;  choice.py   what that says, in words and as JSON
sources.py   the base, the tasks, and a recipe's parameters
scoring.py   candidates written over one reading, scored several at once, each score kept
command.py   the command: its words, its run, its end
guard.py     the program that runs it, and ends it when prefmerge ends
number.py    the number in what it printed
outcome.py   the result of a search

Importing this loads neither torch nor optuna.
"""

from prefmerge.target.by_command.adapting import adapt_by_command
from prefmerge.target.by_command.outcome import CommandOutcome
from prefmerge.target.by_command.search import search_by_command

__all__ = ["CommandOutcome", "adapt_by_command", "search_by_command"]
