"""The dashboard as a program over a tracking store, for tests."""

import os
import re
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

from tests.ports import free_port, listens

ROOT = Path(__file__).parents[1]


@contextmanager
def served(address, **environment):
    """A dashboard server as its program and its address; its log must hold no error that passed through our code."""
    program, url = _start(address, environment)
    try:
        yield program, url
    finally:
        complaint = _stop(program)
    assert not complaint, complaint


def _start(address, environment):
    from diffviews.pipelines.viz import dashboard_command

    port = free_port()
    program = subprocess.Popen(
        dashboard_command(port),
        env={
            **os.environ, "MLFLOW_TRACKING_URI": address, "OMP_NUM_THREADS": "1", "DIFFVIEWS_DEVICE": "cpu",
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]), **environment,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )  # fmt: skip
    deadline = time.monotonic() + 90
    while not listens(port):
        assert program.poll() is None, program.stdout.read().decode()
        assert time.monotonic() < deadline, "the dashboard does not listen"
        time.sleep(0.2)
    return program, f"http://127.0.0.1:{port}/app"


def _stop(program):
    """End a server and return what it complained of."""
    program.terminate()
    output, _ = program.communicate(timeout=180)  # twenty visitors may have to be let go of
    log = output.decode(errors="replace")
    ours = re.search(r'File "[^"]*/(panel_app|diffviews)/|Error running application', log)
    return log[max(ours.start() - 2000, 0) : ours.start() + 2000] if ours else ""
