"""The only room that imports openrlhf, ray, vllm and deepspeed.

`seams` names every place where we plug into OpenRLHF and checks it; `cli` puts the plugs in and
runs OpenRLHF's own `train`; `actor` and `trainer` are what its workers then run. Importing this
package first puts the CPU stack in place where there is no GPU, in every process.
"""

from vespo_openrlhf import cpu
from vespo_openrlhf.bridge import collector

collector.relax()
cpu.install()
