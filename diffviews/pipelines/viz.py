"""The `viz` command: the dashboard, and beside it the MLflow UI, as programs of their own.

The login that Panel reads from the environment is checked before it is trusted.
"""

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from diffviews.adapters.registry import get_adapter
from diffviews.core.request import GenerationRequest
from diffviews.device import is_this_machine, resolve_device
from diffviews.errors import ConfigError
from diffviews.pipelines.models import absolute
from diffviews.tracking.notes import DASHBOARD, dashboard_url
from diffviews.tracking.profiles import Profile, activate, load_profile

logger = logging.getLogger(__name__)

ADDRESS = "127.0.0.1"
SESSION_WAITS = 120
"""Seconds that the dashboard keeps a page whose browser is silent. Bokeh's own 15 are too few for a busy server: a page
that opens its connection later stays empty."""
MLFLOW_ENVIRONMENT = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
"""The UI alone: no messages to others, no job workers."""


@dataclass(slots=True)
class Programs:
    """Servers started here; they end together."""

    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, name: str, command: Sequence[str], environment: Mapping[str, str], port: int) -> None:
        """Start a server and wait until it listens.

        Raises:
            ConfigError: if the port is taken or the program ends at once.
        """
        if _listens(port):
            raise ConfigError(f"port {port} is taken; stop what listens there or choose another port for {name}")
        program = subprocess.Popen(command, env={**os.environ, **environment})
        self.running[name] = program
        deadline = time.monotonic() + 90
        while not _listens(port):
            if program.poll() is not None:
                raise ConfigError(f"{name} ended with exit status {program.returncode}; its message is above")
            if time.monotonic() > deadline:
                raise ConfigError(f"{name} does not listen on port {port} after 90 s; its messages are above")
            time.sleep(0.2)

    def wait(self) -> None:
        """Wait until one ends or the user interrupts."""
        while all(program.poll() is None for program in self.running.values()):
            time.sleep(0.5)

    def stop(self) -> None:
        """End all, politely first."""
        for program in self.running.values():
            program.terminate()
        for program in self.running.values():
            try:
                program.wait(10)
            except subprocess.TimeoutExpired:
                program.kill()


def viz(
    port: int = 5006,
    mlflow_port: int | None = None,
    mlflow_ui: str | None = None,
    device: str = "auto",
    *,
    address: str = ADDRESS,
    data_dir: str | None = None,
    embeddings: str | None = None,
    model: str | None = None,
    checkpoint_path: str | None = None,
    adapter: str | None = None,
    num_steps: int | None = None,
    guidance_scale: float | None = None,
    worker: str | None = None,
    profile: str | None = None,
    experiment: str | None = None,
) -> None:
    """Serve the dashboard over the logged runs of a tracking store, until interrupted.

    Args:
        port: of the dashboard.
        mlflow_port: serve the MLflow UI on this port as well.
        mlflow_ui: address of an MLflow UI that runs already, for links.
        device: for generations: auto, cpu, cuda, cuda:N or mps.
        address: to listen on; anything but 127.0.0.1 lets others in.
        data_dir: data folder in the legacy layout to import first.
        embeddings: table of coordinates (<model>/embeddings/<name>.csv) of that layout, or folder of such: import it
            with what it is of, and open it first; without data_dir, from the model's folder that it lies in.
        model: open this model first; with data_dir, import this one alone.
        checkpoint_path: weights for generations from runs that name none.
        adapter: what checkpoint_path is weights of, so that runs of other models do without it; and the adapter of
            imported folders whose config.json names none.
        num_steps: sampler steps that the form of generations shows first; null shows the model's own.
        guidance_scale: guidance that the form shows first; null shows the model's own.
        worker: address of a worker that generates in place of this machine; DIFFVIEWS_WORKER_TOKEN holds its token.
        profile: tracking profile of mlruns_config.
        experiment: MLflow experiment to open first.
    """
    chosen = activate(load_profile(profile))
    resolve_device(device)
    check_access(address)
    if worker is not None and not worker.startswith(("http://", "https://")):
        raise ConfigError(f"worker address {worker!r} must start with http:// or https://")
    _check_generations(adapter, checkpoint_path or data_dir or embeddings, num_steps, guidance_scale)
    first = None
    if data_dir is not None or embeddings is not None:
        from diffviews.pipelines.legacy.import_legacy import (
            import_for_viz,  # all that maps need, which serving does not
        )

        first = import_for_viz(
            data_dir, embeddings, model=model, adapter=adapter, profile=profile, experiment=experiment
        )
    programs = Programs()
    before = signal.signal(signal.SIGTERM, _interrupt)  # or the servers would outlive this program
    try:
        if mlflow_port is not None:
            programs.start("the MLflow UI", mlflow_command(chosen, mlflow_port), MLFLOW_ENVIRONMENT, mlflow_port)
            mlflow_ui = f"http://{ADDRESS}:{mlflow_port}"
            logger.info("MLflow UI   %s", mlflow_ui)
        environment = {
            "MLFLOW_TRACKING_URI": chosen.tracking_uri,
            "DIFFVIEWS_DEVICE": device,
            "DIFFVIEWS_MLFLOW_UI": mlflow_ui or "",
            "DIFFVIEWS_EXPERIMENT": experiment or chosen.experiment,
            DASHBOARD: dashboard_url() or f"http://{ADDRESS}:{port}/app",
        }
        named = {
            "MODEL": model,
            "CHECKPOINT": absolute(checkpoint_path),
            "ADAPTER": adapter,
            "WORKER_URL": worker,
            "PROFILE": profile,
            "RUN": first,
            "NUM_STEPS": num_steps,
            "GUIDANCE_SCALE": guidance_scale,
        }
        environment |= {f"DIFFVIEWS_{name}": str(value) for name, value in named.items() if value is not None}
        programs.start("the dashboard", dashboard_command(port, address), environment, port)
        logger.info("Dashboard   http://%s:%d/app", ADDRESS, port)
        logger.info("Press Ctrl-C to stop.")
        programs.wait()
    except KeyboardInterrupt:
        logger.info("stopped")
    finally:
        programs.stop()
        signal.signal(signal.SIGTERM, before)


def _check_generations(
    adapter: str | None, of: str | None, num_steps: int | None, guidance_scale: float | None
) -> None:
    """Refuse what the dashboard's first generation would fail of.

    Args:
        adapter: name of one.
        of: what the adapter is named for: a checkpoint or a data folder.
        num_steps: sampler steps.
        guidance_scale: classifier-free guidance.

    Raises:
        DiffViewsError: with the value and a remedy.
    """
    if adapter is not None:
        get_adapter(adapter)
        if of is None:
            raise ConfigError(
                f"--adapter {adapter} says what a checkpoint or a data folder is of; give --checkpoint-path or "
                "--data-dir as well, or --model to open a model first"
            )
    GenerationRequest(num_steps=num_steps, guidance_scale=guidance_scale)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def dashboard_command(port: int, address: str = ADDRESS) -> list[str]:
    """Return the command that serves the dashboard."""
    spec = find_spec("panel_app")
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError("the package panel_app is not installed; install diffviews again")
    folder = Path(next(iter(spec.submodule_search_locations)))
    login = str(folder / "login.html")  # Panel's own asks another host for a logo
    return [
        sys.executable, "-m", "panel", "serve", str(folder / "app.py"), "--setup", str(folder / "ready.py"),
        "--basic-login-template", login, "--logout-template", login, "--port", str(port), "--address", address,
        "--allow-websocket-origin", f"127.0.0.1:{port}", "--allow-websocket-origin", f"localhost:{port}",
        "--unused-session-lifetime", str(SESSION_WAITS * 1000),
    ]  # fmt: skip


def mlflow_command(profile: Profile, port: int) -> list[str]:
    """Return the command that serves the MLflow UI over a profile's store."""
    artifacts = ["--default-artifact-root", profile.artifact_root] if profile.artifact_root else []
    return [
        sys.executable, "-m", "mlflow", "server", "--backend-store-uri", profile.tracking_uri, *artifacts,
        "--host", ADDRESS, "--port", str(port), "--workers", "1",
    ]  # fmt: skip


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((ADDRESS, port)) == 0


logger = logging.getLogger(__name__)

PASSWORDS, PROVIDER = "PANEL_BASIC_AUTH", "PANEL_OAUTH_PROVIDER"
COOKIES = ("PANEL_COOKIE_SECRET", "BOKEH_COOKIE_SECRET")
OAUTH_NEEDS = ("PANEL_OAUTH_KEY", "PANEL_OAUTH_SECRET", "PANEL_OAUTH_ENCRYPTION")


def check_access(address: str, environment: Mapping[str, str] = os.environ) -> None:
    """Refuse a login that would not hold, and warn of none where others can reach the dashboard.

    Args:
        address: that the dashboard listens on.
        environment: where Panel finds its settings.

    Raises:
        ConfigError: if the login is half set up, with what is missing; no value of it is named.
    """
    passwords, provider = environment.get(PASSWORDS), environment.get(PROVIDER)
    if passwords and provider:
        raise ConfigError(f"{PASSWORDS} and {PROVIDER} are both set; keep the login that is meant")
    if passwords:
        _check_passwords(Path(passwords))
    if provider:
        lacking = [name for name in OAUTH_NEEDS if not environment.get(name)]
        if lacking:
            raise ConfigError(f"the login by {provider} needs {', '.join(lacking)} as well")
    if passwords or provider:
        if not any(environment.get(name) for name in COOKIES):
            raise ConfigError(f"a login needs {COOKIES[0]}; set it to the output of: openssl rand -hex 32")
    elif not is_this_machine(address):
        logger.warning("the dashboard has no login, and whoever reaches %s can generate with it", address)


def _check_passwords(path: Path) -> None:
    """Refuse what Panel would misread: it takes a name without a file for the password of everybody."""
    if not path.is_file():
        raise ConfigError(f"{PASSWORDS} names no file; it must be the path of a JSON file of names and passwords")
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"the passwords in {path} cannot be read: {type(error).__name__}") from None
    texts = [text for pair in held.items() for text in pair] if isinstance(held, dict) else []
    if not texts or not all(isinstance(text, str) and text for text in texts):
        raise ConfigError(f'the passwords in {path} must be a JSON object, {{"name": "password", …}}, and not empty')
