"""A team's servers for tests, as real programs: PostgreSQL, and `mlflow server` over it."""

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

from tests.ports import free_port
from tests.programs import postgres, postgres_user

DATABASE_PASSWORD = "planted-database-password"
FOREIGN = (
    "MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME",
    "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN",
)  # fmt: skip


def wait(condition, program, log):
    deadline = time.monotonic() + 90
    while not condition():
        assert program.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)


class Database:
    """A PostgreSQL cluster of its own in a temporary folder; as root it runs as another user, as it insists."""

    def __init__(self):
        self.folder = Path(tempfile.mkdtemp(prefix="diffviews-postgres-"))
        self.port, self.log = free_port(), self.folder / "log"
        self._programs, user = postgres(), postgres_user()
        self._user = {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []} if user else {}
        (self.folder / "password").write_text(DATABASE_PASSWORD)
        if self._user:
            for path in (self.folder, self.folder / "password"):
                shutil.chown(path, self._user["user"], self._user["group"])
        self.run("initdb", "-D", "data", "-U", "diffviews", "-A", "scram-sha-256", "--pwfile=password", "-N")
        self.log.touch()

    def run(self, program, *arguments):
        """Run one of PostgreSQL's programs and return what it printed."""
        done = subprocess.run(
            [self._programs / program, *arguments], cwd=self.folder, capture_output=True, text=True, check=False,
            env={**os.environ, "PGPASSWORD": DATABASE_PASSWORD}, **self._user,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    def start(self):
        settings = ("listen_addresses=127.0.0.1", f"unix_socket_directories={self.folder}", "fsync=off")
        command = [self._programs / "postgres", "-D", "data", "-p", str(self.port)]
        command += [word for setting in settings for word in ("-c", setting)]
        with self.log.open("a") as log:
            self.process = subprocess.Popen(command, cwd=self.folder, stdout=log, stderr=log, **self._user)
        wait(lambda: "ready to accept connections" in self.log.read_text(), self.process, self.log)

    def stop(self):
        self.process.send_signal(signal.SIGINT)  # a fast shutdown
        self.process.wait(60)

    def dump(self):
        """Return everything that the database holds, as text."""
        return self.run("pg_dump", "-h", "127.0.0.1", "-p", str(self.port), "-U", "diffviews", "postgres")

    @property
    def address(self):
        return f"postgresql://diffviews:{DATABASE_PASSWORD}@127.0.0.1:{self.port}/postgres"


class Server:
    """`mlflow server` as docs/deployment.md starts it: the database's address comes from the environment."""

    def __init__(self, folder, database):
        self.folder, self.port, self._database = folder, free_port(), database
        self.artifacts, self.log = folder / "artifacts", folder / "log"
        self.address = f"http://127.0.0.1:{self.port}"

    def start(self):
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--workers", "1", "--serve-artifacts", "--artifacts-destination", str(self.artifacts)]
        kept = {name: value for name, value in os.environ.items() if name not in FOREIGN}
        quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                command, env=kept | quiet | {"MLFLOW_BACKEND_STORE_URI": self._database.address},
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        wait(self._answers, self.process, self.log)

    def _answers(self):
        with contextlib.suppress(urllib.error.URLError, OSError):
            first = f"{self.address}/api/2.0/mlflow/experiments/get?experiment_id=0"
            urllib.request.urlopen(first, timeout=60).close()
            return True
        return False

    def stop(self):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(15)
