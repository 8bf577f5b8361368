"""From what a user has of the target to a model for it.

adapt.py         the best model for a target, and what to expect of it there: the order of the steps below
parameters/      the parameters of adapt, prefer and search, each declared once
checkpoints.py   the checkpoints to merge, of a run or a base and its tasks
source.py        the same with head, encoder and samples of the tasks
given/           the files that a user shows: labels, inputs, both, embeddings
evidence.py      these files read, and the shares that follow
shares/          how much of the target comes from each task, and how sure that is
prior.py         how often each class occurs there, and what that adds to the logits
pool.py          the candidates;  merges.py makes them, forwards.py embeds samples with them
judging.py       which samples stand for the target, and which candidate does best on them
proxy.py, choice.py, fit.py, estimates.py   weights and folds, the score, bias and rows, how good it will be
own.py           models with a classifier of their own
result.py, output.py, report.py             what came out, the folder, the page
compared.py      models that the user has, judged beside the candidates
check.py         whether the mix has moved since;  moved.py compares two mixes, checked.py says what that means
api.py           adapt, check and prefer from Python

prefer.py        the preference out of the same files;  estimated.py, embedded.py (the paper's), preferred.py
similarity/      label overlap, optimal transport, cosine, MMD
search/          the settings that do best at the target, tried one after another
draws.py         whether a number of draws and a level make sense together
"""
