"""The command line, `p2p`. What is heavy is imported by the command that needs it: help and completion answer at once."""

from .app import main

__all__ = ["main"]
