"""Answers, before a node is rented, whether a recipe will run there: `vespo_openrlhf.check`.

`recipe` finds the flags that a script would submit, `resolve` parses and validates them with the
installed OpenRLHF's own code, without importing it. The rules (`batches`, `flags`, `gpus`, `paths`)
look at the resolved flags and yield findings; `shape`, `memory` and `speed` estimate from the
model's config.json. Nothing is started, and neither vLLM nor Ray is imported.
"""
