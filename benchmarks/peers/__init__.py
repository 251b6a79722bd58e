"""Other ways to run a function later, each set up as its own documentation says."""

from .every import all_peers
from .peer import Peer

__all__ = ["Peer", "all_peers"]
