"""This project beside stock OpenRLHF and TRL on the same job: --help says how."""

import sys

from vespo_openrlhf.peers.command import main

if __name__ == "__main__":
    sys.exit(main())
