"""Evaluation of a model on problems with a checkable answer, with the training's own verifier.

`generate` drives vLLM, `metrics` holds the estimators, `python -m eval run` puts them together.
Shaped rewards never enter: a response is right or wrong.
"""
