"""The `viz` command as a program: what it starts ends with it."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.integration.conftest import ROOT


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_dashboard_ends_with_the_command_that_serves_it(sign: signal.Signals, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = dict(os.environ) | {"PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db"}
    command = [sys.executable, "-m", "diffviews", "viz", "--port", str(port), "--device", "cpu"]
    program = subprocess.Popen(command, env=environment, cwd=tmp_path, stderr=subprocess.PIPE)
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
