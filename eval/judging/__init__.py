"""Right or wrong, by the training's own verifier; `tolerance` for benchmarks of numbers."""
