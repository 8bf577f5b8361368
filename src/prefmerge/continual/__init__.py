"""Continual fine-tuning and evaluation: what both papers do before they merge. Needs the extra `train`.

    config -> data -> scenario (tasks) -> encoder + frozen head -> training -> run folder -> evaluation

Importing this loads no torch; the modules below import it where they need it.
"""
