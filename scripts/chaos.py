"""Trains while parts of the stack are stopped, killed and starved: --help says how."""

import sys

from vespo_openrlhf.chaos.command import main

if __name__ == "__main__":
    sys.exit(main())
