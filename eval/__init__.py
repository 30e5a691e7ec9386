"""Evaluation of a model on benchmarks with checkable answers: `vespo eval`.

`benchmarks` lists what there is, `data` reads it, `prompts` puts the question, `engines` answer it
(vLLM here, vLLM on a Ray cluster, an OpenAI-compatible server), `judging` asks the training's own
verifier, `records` keeps every generation on disk, `metrics` holds the estimators, `runner` puts
them together. Shaped rewards never enter: a response is right or wrong.
"""
