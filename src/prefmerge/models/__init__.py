"""What embeds and what answers. Needs the extra `train`.

encoders/       models that embed images or texts
heads.py        frozen classifiers over embeddings
head_file.py    the same in a file, read without torch
prepared.py     images that are decoded once for several models
features.py     embeddings of many samples, through a cache on disk
evaluation.py   how often a model is right
matrix.py       every checkpoint of a run on every task
metrics.py      accuracy, forgetting and transfer of a sequence of checkpoints
seeds.py        mean and deviation over runs that differ in their seed
"""
