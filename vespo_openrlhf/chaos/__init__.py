"""A chaos run: the whole stack trains while its parts are stopped, killed and starved."""
