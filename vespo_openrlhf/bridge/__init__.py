"""The only room that imports openrlhf, ray, vllm and deepspeed.

`seams` names every place where we plug into OpenRLHF and checks it; `cli` puts the plugs in and
runs OpenRLHF's own `train`; `trainer`, `actor` and `engine` are what its processes then run. What
these are made of lies in rooms: `samples` on their way to an update, `weights` on their way back,
`run` for the driver's records and checkpoints, `rank` for what each of the trainer's ranks does.

Importing this package first puts the CPU stack in place where there is no GPU, in every process.
"""

from vespo_openrlhf import cpu
from vespo_openrlhf.bridge import collector

collector.relax()
cpu.install()
