"""Places where a test can kill the process, as a power cut would."""

from __future__ import annotations

import os
import signal


def failpoint(name: str) -> None:
    """Die here and now if the environment says `TUNESMITH_FAILPOINT=<name>`."""
    if os.environ.get("TUNESMITH_FAILPOINT") == name:
        os.kill(os.getpid(), signal.SIGKILL)
