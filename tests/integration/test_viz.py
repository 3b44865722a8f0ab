"""The `viz` command as a program: what it starts ends with it."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from tests.integration.conftest import ROOT
from tests.ports import free_port, listens


@pytest.mark.parametrize("sign", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_dashboard_ends_with_the_command_that_serves_it(sign: signal.Signals, tmp_path: Path) -> None:
    port = free_port()
    environment = dict(os.environ) | {"PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db"}
    command = [sys.executable, "-m", "diffviews", "viz", "--port", str(port), "--device", "cpu"]
    # A shell starts what runs in its background deaf to SIGINT, and so would be all that these tests start.
    hearing = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    program = subprocess.Popen(command, env=environment, cwd=tmp_path, stderr=subprocess.PIPE, preexec_fn=hearing)
    try:
        deadline = time.monotonic() + 90
        while not listens(port):
            assert program.poll() is None, program.stderr.read().decode()
            assert time.monotonic() < deadline
            time.sleep(0.2)
        program.send_signal(sign)
        assert program.wait(30) == 0
        assert not listens(port)
    finally:
        program.kill()
