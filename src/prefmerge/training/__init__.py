"""Continual fine-tuning: what both papers do before they merge. Needs the extra `train`.

    config -> data -> scenario (tasks) -> encoder + frozen head -> steps -> run folder

config_file.py    the configuration in YAML: the user's, and the run's own
defaults.py       what a configuration leaves to a default
finetuning.py     a whole run, task after task, from where it stopped
job.py            the parts of a run under way, and what it reports
steps.py          one task: loss, optimiser, learning rate
batches.py        the samples that a step sees
regularisers.py   LwF and EWC
between_tasks.py  what LwF and EWC take from one task to the next
state.py          what an interrupted task resumes from
run_folder.py     what is in a run's folder, and who may write to it
samples.py        which samples a run started with
kept.py           the samples that a run held out, and the base's embeddings
opened.py         a finished run with its data, encoder and head
"""
