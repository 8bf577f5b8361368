"""Files of every kind that prefmerge reads, damaged at random: each is taken, or refused with one message.

mutate.py     what damage is done, from a seeded generator
targets.py    what is damaged and who reads it
test_fuzz.py  some cases of each in the suite; `pytest tests/fuzz --fuzz 100000` for a campaign
"""
