"""Prompts in, prompts out: what is checked before a run may start on a model and its data."""
