"""What a command has shown on a terminal."""

import os


def all_that_was_shown(terminal: int) -> bytes:
    """Read a terminal to its end, which is when nobody has it open; close it.

    What was written comes to this end of it a moment later, and piece by piece.
    """
    shown = b""
    try:
        while piece := os.read(terminal, 65536):
            shown += piece
    except OSError:  # that is its end
        return shown
    finally:
        os.close(terminal)
    return shown
