"""Rollouts of other trainers, and of people, as shards: `formats/` reads them, a file a format."""
