"""No bound on the lag: a prompt is sent whenever an engine has room, and the oldest groups train.

The lag is what comes of it, is measured and reported. Only the buffer between engines and trainer
is kept finite, so that engines that are faster than the trainer do not fill the memory.
"""

from __future__ import annotations

from itertools import islice

from ..policy import Choice, Policy, Send, View

#: Rollout batches of samples, complete or in flight beyond the places on engines, above which
#: nothing is sent.
BUFFERED_BATCHES = 4


class Fifo(Policy):
    """First in, first out; see the module."""

    def send(self, view: View) -> Send | None:
        """To the least loaded engine, while the buffer has room."""
        samples = self.config.samples_per_prompt
        buffered = len(view.complete) * samples + view.surplus
        if buffered >= BUFFERED_BATCHES * self.config.prompts_per_batch * samples:
            return None
        return Send(view.least_loaded)

    def choose(self, view: View) -> Choice:
        """The complete groups with the oldest tokens."""
        return Choice(list(islice(view.complete, view.batch_size)))
