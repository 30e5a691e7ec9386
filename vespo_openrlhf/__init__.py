"""VESPO on OpenRLHF: policy losses, the CPU stack, and the seams that join them.

Importing this package imports nothing heavy; each room below says what it needs.
"""

__version__ = "0.1.0"
