"""What is asked: the benchmarks, their problems, and the prompts that put them.

`benchmark` lists those that are known, `selection` reads ``--benchmarks``, a user's own among them,
`loading` reads and checks their data, `templates` render a problem as a prompt, `few_shot` puts
worked examples before it.
"""

from vespo_openrlhf.eval.benchmarks.benchmark import BENCHMARKS, EMBEDDED, Benchmark
from vespo_openrlhf.eval.benchmarks.selection import parse

__all__ = ["BENCHMARKS", "EMBEDDED", "Benchmark", "parse"]
