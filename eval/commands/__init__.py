"""The commands of `vespo eval`, a module each; `flags` are those that say what is run.

`presets` are the flags of published evaluations, `tracking` logs results to other services,
`checkpoints` finds what `watch` evaluates.
"""
