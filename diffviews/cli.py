"""Commands: each is one typed function; flags, YAML files and environment variables fill its arguments.

`diffviews extract --layers midblock --sigmas 0.5,2` calls `diffviews.pipelines.extract.extract`. The
table below holds names only, so that `diffviews --help` imports no model code.
"""

import importlib
import inspect
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from diffviews.errors import ConfigError, DiffViewsError, unknown_name


@dataclass(frozen=True, slots=True)
class Command:
    """Where a command's function lives and what it does."""

    target: str
    """`module:function`."""
    summary: str
    """One line for `diffviews --help`."""
    positional: tuple[str, ...] = ()
    """Arguments that may be given without their flag."""
    aliases: tuple[tuple[str, str], ...] = ()
    """Short flags: (flag, argument)."""


COMMANDS = {
    "demo": Command("diffviews.pipelines.demo:demo", "the whole story on 1,797 handwritten digits, then serve it"),
    "extract": Command(
        "diffviews.pipelines.extract:extract", "capture activations of layers at noise levels, map and measure them"
    ),
    "embed": Command(
        "diffviews.pipelines.embed:embed", "compute a further map of a layer: other parameters, joint or aligned"
    ),
    "generate": Command("diffviews.pipelines.generate:generate_command", "generate images, with or without a mask"),
    "generate-dataset": Command(
        "diffviews.pipelines.generate_dataset:generate_dataset", "make a sample set with a model, resumable and growable"
    ),
    "train": Command("diffviews.pipelines.train:train", "train a small denoiser, such as the shipped edm-digits"),
    "viz": Command("diffviews.pipelines.viz:viz", "serve the dashboard", aliases=(("-m", "model"),)),
    "layers": Command("diffviews.pipelines.layers:layers", "list a model's hook points with shapes and bytes"),
    "replay": Command(
        "diffviews.pipelines.replay:replay", "repeat a logged generation and compare", positional=("run",)
    ),
}


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line; the exit status is 0 only on success."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        sys.stdout.write(overview())
        sys.exit(0 if words else 2)
    if words[0] == "--version":
        from importlib.metadata import version

        sys.stdout.write(f"diffviews {version('diffviews')}\n")
        sys.exit(0)
    if words[0] not in COMMANDS:
        sys.stderr.write(f"diffviews: {unknown_name('command', words[0], COMMANDS)}\n")
        sys.exit(2)
    run_command(words[0], words[1:])


def overview() -> str:
    """Return the text of `diffviews --help`."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: diffviews COMMAND [--flag VALUE …] [--config FILE.yaml]",
            "",
            "See what the layers of a diffusion model know, which of them decide, and change them.",
            "",
            *lines,
            "",
            "`diffviews COMMAND --help` lists a command's flags; each can also come from a YAML file",
            "(--config) or from the environment (DIFFVIEWS_<FLAG>).",
            "",
        ]
    )


def run_command(name: str, arguments: Sequence[str] | None = None) -> NoReturn:
    """Parse `arguments` for one command, run it, print its outcome and exit."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for noisy in ("httpx", "alembic", "mlflow.store.db.utils", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        outcome = load_function(name)(**parse_arguments(name, words))
    except DiffViewsError as error:
        sys.stderr.write(f"diffviews {name}: {error}\n")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.stderr.write(f"diffviews {name}: interrupted\n")
        sys.exit(130)
    if outcome is not None:
        sys.stdout.write(f"{outcome}\n")
    sys.exit(0)


def load_function(name: str) -> Callable[..., Any]:
    """Import and return the typed function behind a command."""
    module, _, function = COMMANDS[name].target.partition(":")
    return getattr(importlib.import_module(module), function)


def parse_arguments(name: str, words: Sequence[str]) -> dict[str, Any]:
    """Return the keyword arguments for a command, from flags, YAML and environment.

    Raises:
        ConfigError: if an option is unknown or a value has the wrong type.
    """
    from jsonargparse import ArgumentError, ArgumentParser

    command, function = COMMANDS[name], load_function(name)
    parser = ArgumentParser(
        prog=f"diffviews {name}", default_env=True, env_prefix="DIFFVIEWS", exit_on_error=False,
        description=(inspect.getdoc(function) or "").partition("\n")[0],
    )
    parser.add_argument("--config", action="config", help="YAML file with values for these flags")
    parser.add_function_arguments(function, as_group=False, fail_untyped=True)
    try:
        values = parser.parse_args(_spell_out(command, function, words))
    except ArgumentError as error:
        raise ConfigError(_explain(str(error), _parameters(function))) from error
    return {key: value for key, value in values.as_dict().items() if key in _parameters(function)}


def _parameters(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(function).parameters)


def _spell_out(command: Command, function: Callable[..., Any], words: Sequence[str]) -> list[str]:
    """Rewrite positional words, short flags, dashes and bare switches as `--name=value`."""
    parameters, aliases = _parameters(function), dict(command.aliases)
    positional, spelled, rest = list(command.positional), [], list(words)
    while rest:
        word = rest.pop(0)
        flag, equals, value = word.partition("=")
        if not word.startswith("-"):
            if not positional:
                raise ConfigError(f"{word!r} has no flag before it; write --NAME {word}")
            spelled.append(f"--{positional.pop(0)}={word}")
            continue
        key = aliases.get(flag, flag.lstrip("-").replace("-", "_"))
        if key in parameters and not equals:
            is_switch = parameters[key].annotation is bool
            if is_switch and (not rest or rest[0] not in ("true", "false", "True", "False")):
                value = "true"
            elif rest:
                value = rest.pop(0)
            else:
                raise ConfigError(f"{flag} needs a value")
            spelled.append(f"--{key}={value}")
        elif key in parameters:
            spelled.append(f"--{key}={value}")
        else:
            spelled.append(word)
            if flag == "--config" and not equals and rest:
                spelled.append(rest.pop(0))
            elif flag not in ("-h", "--help", "--config", "--print_config"):
                raise ConfigError(unknown_name("option", flag, [f"--{name}" for name in parameters]))
    return spelled


def _explain(message: str, parameters: dict[str, inspect.Parameter]) -> str:
    """Shorten jsonargparse's message and offer the nearest name for an unknown key."""
    quoted = message.split("'")
    if "is not accepted" in message and len(quoted) > 1:
        return unknown_name("option", quoted[1], parameters)
    return " ".join(message.split())


if __name__ == "__main__":
    main()
