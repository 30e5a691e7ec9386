"""A sample between the engine and the ranks: response, rollout batch, advantages, its order."""
