"""The parameters of a score by the user's command: `search --score` and `adapt --score` have the same ones.

Cost: none. Not here: what the command is run on (`by_command`).
"""

from __future__ import annotations

from prefmerge.errors import UsageError
from prefmerge.target.parameters.declared import Declared

SCORE = Declared(
    "For models that prefmerge cannot run: a shell command that prints the score of the model at {model}. It "
    "may hold {budget}, {out} (a folder for its JSON) and {job} (0 to --jobs less 1) too.",
    metavar="COMMAND",
)
CONFIRM = Declared(
    "The same on held-out samples: it scores the best candidate and every input, and decides.",
    metavar="COMMAND",
)
CONFIRM_REPEATS = Declared(
    "Run --confirm so often for each model: the estimate is the mean, with an interval. {repeat} is then 1, 2 and so "
    "on, such as for a seed.",
    metavar="N",
    least=1,
)
SCORE_KEY = Declared(
    "Where the score is in the JSON that the command prints or leaves in {out}: names joined by /, such as "
    "results/gsm8k/acc,none, or results/*/acc,none, where * is any one name: that of the task, which the confirming "
    "command has another of.",
    metavar="KEY",
)
LOWER_IS_BETTER = Declared("The score is a loss or a perplexity.")
BUDGETS = Declared(
    "What {budget} is: the best third of the candidates goes on from each number to the next.",
    metavar="N,N,...",
)
JOBS = Declared("Commands that run at once.", metavar="N", least=1, local=True)
TIMEOUT = Declared("Give up a candidate whose command takes longer.", metavar="SECONDS", least=0.001)
MAX_MEMORY = Declared("Bound on the working memory of a merge with --score.", metavar="SIZE", local=True)

# Without --score they have no use.
OF_SCORE = (
    "confirm",
    "confirm_repeats",
    "score_key",
    "lower_is_better",
    "budgets",
    "jobs",
    "timeout",
    "max_memory",
)
COMMANDS = ("score", "confirm")  # are run: never taken from a file


def require_command(score: str) -> None:
    """Raise UsageError where the command is empty."""
    if not score.strip():
        raise UsageError("--score is empty. Give the command that scores a model, with {model} where its path goes.")
