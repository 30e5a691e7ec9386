"""Evaluation of a model on benchmarks with checkable answers: `vespo eval`.

`benchmarks` are asked, `engines` answer (vLLM here, several of them on Ray, an OpenAI-compatible
server), `judging` has the training's own verifier judge, `results` keeps every generation on disk,
`metrics` holds the estimators, `running` puts these together, `report` shows what came of it, and
`commands` are the command line. Shaped rewards never enter: a response is right or wrong.
"""
