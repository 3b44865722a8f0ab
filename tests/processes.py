"""Jobs that tests start in several processes at once."""

import os
import signal

from diffviews.errors import ConfigError
from diffviews.lightning.process_group import joined_process_group


def tell(work):
    """Return what this process knows and what falls to each."""
    with joined_process_group() as group:
        looked_up = group.from_first(lambda: os.getpid())
        assert (looked_up == os.getpid()) == group.leads
        shares = [group.share(work)]
    with joined_process_group() as again:  # a program may have several jobs
        return again.size, shares[0], again.from_first(lambda: "found")


def fail(how):
    """End process 1 in some way while the others wait for it."""
    with joined_process_group() as group:
        group.wait()
        if group.rank == 1:
            if how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            raise OSError("the disk is on fire") if how == "fails" else ConfigError("sigma -1 is not possible")
        group.wait()
