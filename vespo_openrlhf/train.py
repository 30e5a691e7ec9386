"""`python -m vespo_openrlhf.train`: OpenRLHF's Ray PPO trainer with VESPO plugged in."""

import sys

from vespo_openrlhf.bridge.cli import main

if __name__ == "__main__":
    sys.exit(main())
