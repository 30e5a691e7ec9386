"""An agent of ours: whatever is said, say it again. A turn is worth its share of even digits."""

import asyncio

from vespo_openrlhf.agents import Agent, Step


class Again(Agent):
    max_turns = 2
    max_turn_tokens = 16

    async def step(self, action: str) -> Step:
        await asyncio.sleep(0.05)
        digits = [int(c) for c in action if c.isdigit()]
        even = sum(digit % 2 == 0 for digit in digits) / max(len(digits), 1)
        return Step([{"role": "user", "content": "Again."}], even, logs={"digits": len(digits)})
