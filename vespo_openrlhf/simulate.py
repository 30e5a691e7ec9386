"""`python -m vespo_openrlhf.simulate`: size a cluster and a lag bound before renting it."""

import sys

from vespo_openrlhf.simulator.command import main

if __name__ == "__main__":
    sys.exit(main())
