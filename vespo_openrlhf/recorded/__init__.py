"""Recorded rollouts: samples on disk as Parquet shards, whatever made them.

`schema.py` says what a row is, `writing.py` writes shards, `reading.py` streams groups from them,
and `importing/` makes shards of what other trainers have left. No part of the stack is needed.
"""
