"""The ground floor: what every part of prefmerge stands on, and what knows nothing of checkpoints or models.

disk.py       small steps on a disk: sync, parents, remove
refused.py    what the system refuses, and what to do about it
locks.py      who may write, one at a time
atomic.py     a file or a folder replaced whole
jsons.py      JSON files, written whole and read strictly
yaml_file.py  YAML files that people write
checked.py    what files hold, checked by pydantic
store.py      finished pieces of work, to resume from
progress.py   how a long job says how far it is
draws.py      keyed choice, largest remainder, splits
stats.py      intervals of accuracies and means
brief.py      a short __repr__
words.py      lists, counted nouns, the name that was meant
"""
