"""A run from its `plan` to its `summary`: `generation` of what is missing, or `rescoring`."""
