"""Continual fine-tuning: what both papers do before they merge. Needs the extra `train`.

    config -> data -> scenario (tasks) -> encoder + frozen head -> steps -> run folder

config_file.py   the YAML file of a run
finetuning.py    a whole run, task after task, from where it stopped
steps.py         one task: batches, loss, optimiser, learning rate
regularisers.py  LwF and EWC
run_folder.py    what is in a run's folder, and who may write to it
kept.py          the samples that a run held out, and the base's embeddings
opened.py        a finished run with its data, encoder and head
"""
