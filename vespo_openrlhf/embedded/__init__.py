"""The embedded default: a tiny model and an arithmetic data set, built here in half a minute.

What a newcomer without a GPU trains in the quickstart. `arithmetic` makes the problems and
their worked solutions, `tokenizer` a character-level tokenizer with a chat template, `model` a
small Qwen3 warm-started on a mixture of right and wrong procedures, `build` writes them all
into one folder, once. `python -m vespo_openrlhf.embedded --help` is the way in.
"""
