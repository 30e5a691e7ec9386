"""Recorded rollouts in the place of engines."""
