"""Commands: each is one typed function; flags, YAML files and environment variables fill its arguments.

`diffviews extract --layers midblock --sigmas 0.5,2` calls `diffviews.pipelines.extract.extract`. The
table below holds names only, so that `diffviews --help` imports no model code.
"""

import importlib
import inspect
import logging
import os
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn, get_args, get_origin, get_type_hints

from diffviews.errors import ConfigError, DiffViewsError, unknown_name

if TYPE_CHECKING:
    from diffviews.recipes.options import Option


@dataclass(frozen=True, slots=True)
class Command:
    """Where a command's function lives and what it does."""

    summary: str
    """One line for `diffviews --help`."""
    target: str = ""
    """`module:function`; '' is the function of the command's name in the module of its name in `pipelines`."""
    positional: tuple[str, ...] = ()
    """Arguments that may be given without their flag."""
    aliases: tuple[tuple[str, str], ...] = ()
    """Short flags: (flag, argument)."""
    shared: bool = False
    """Whether several processes do it together, as torchrun starts them."""


COMMANDS = {
    "demo": Command("the whole story on 1,797 handwritten digits, then serve it"),
    "extract": Command("capture activations of layers at noise levels, map and measure them", shared=True),
    "embed": Command("a further map of a layer: other parameters, joint or aligned"),
    "generate": Command("generate images, with or without a mask"),
    "generate-dataset": Command("make a sample set with a model; resumable, growable", shared=True),
    "atlas": Command(
        "which cut of the network decides, and at which steps, by interchange between two runs",
        "diffviews.pipelines.atlas.job:atlas",
    ),
    "train": Command("train a small denoiser, such as the shipped edm-digits", shared=True),
    "viz": Command("serve the dashboard", aliases=(("-m", "model"),)),
    "layers": Command("a model's hook points with shapes and bytes", "diffviews.pipelines.models:layers"),
    "import": Command(
        "a data folder in the legacy layout becomes runs", "diffviews.pipelines.legacy.import_legacy:import_legacy",
        positional=("path",),
    ),
    "convert": Command(
        "per-sample .npz activations into one .npy", "diffviews.pipelines.legacy.convert:convert", positional=("path",)
    ),
    "checkpoints": Command(
        "list the public checkpoints known by name, with their licences",
        "diffviews.pipelines.team_bucket:list_checkpoints",
    ),
    "convert-checkpoint": Command(
        "write any checkpoint as safetensors; nothing in it is run", positional=("source",)
    ),
    "worker": Command("generate and extract for others over HTTP, on a GPU host", "diffviews.serving.worker:worker"),
    "register": Command(
        "put a model with its weights into MLflow's registry", "diffviews.serving.register:register",
        positional=("name",),
    ),
    "download": Command(
        "data and checkpoints from the team's bucket or their authors", "diffviews.pipelines.team_bucket:download"
    ),
    "seed": Command(
        "a data folder, or a model's computed layers, to the team's bucket", "diffviews.pipelines.team_bucket:seed",
        positional=("path",), aliases=(("-m", "model"),),
    ),
    "doctor": Command("check store, credentials, disk, GPU and tracking"),
    "replay": Command("repeat a logged generation and compare", positional=("run",)),
    "benchmark": Command(
        "measure how fast everything is against the alternatives; from a clone",
        "experiments.benchmarks.command:benchmark", positional=("names",),
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
    """Parse `arguments` for one command, run it, print its result and exit."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # prompts too long are told of by ourselves
    warnings.filterwarnings("ignore", module="lightning")  # hints for those who write Lightning code
    leads = os.environ.get("RANK", "0") == "0"  # of several processes one tells what all of them do
    logging.basicConfig(level=logging.INFO if leads else logging.WARNING, format="%(message)s", stream=sys.stderr)
    for noisy in ("httpx", "alembic", "botocore", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    words = list(sys.argv[1:] if arguments is None else arguments)
    several = os.environ.get("TORCHELASTIC_RUN_ID") and os.environ.get("WORLD_SIZE", "1") != "1"
    if several and not COMMANDS[name].shared:
        together = ", ".join(key for key, command in COMMANDS.items() if command.shared)
        sys.stderr.write(f"diffviews {name}: runs in one process; torchrun serves {together} alone\n")
        sys.exit(2)
    try:
        result = call(load_function(name), parse_arguments(name, words))
    except DiffViewsError as error:
        sys.stderr.write(f"diffviews {name}: {error}\n")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.stderr.write(f"diffviews {name}: interrupted\n")
        sys.exit(130)
    if result is not None and leads:
        sys.stdout.write(f"{result}\n")
    sys.exit(0)


def load_function(name: str) -> Callable[..., Any]:
    """Import and return the typed function behind a command.

    Raises:
        ConfigError: if it is one of the repository's that an installed package does not bring.
    """
    own = name.replace("-", "_")
    module, _, function = (COMMANDS[name].target or f"diffviews.pipelines.{own}:{own}").partition(":")
    if module.startswith("experiments.") and not (Path(__file__).parents[1] / "experiments" / "benchmarks").is_dir():
        raise ConfigError(f"{name} runs from a clone of the repository; the installed package does not hold it")
    return getattr(importlib.import_module(module), function)


def options_for(function: Callable[..., Any]) -> dict[str, "Option"]:
    """Return the flags of a command by name: a recipe or another dataclass spread, a workspace as its two names.

    A parameter that no text can give, such as a loaded model, is none of them.
    """
    from diffviews.pipelines.workspace import Workspace
    from diffviews.recipes.options import Option, flatten, options_of

    hints, texts = get_type_hints(function), _parameter_texts(function)
    found: dict[str, Option] = {}
    for key, parameter in inspect.signature(function).parameters.items():
        kind, default = hints[key], parameter.default
        if kind is Workspace:
            found["profile"] = Option("profile", str | None, None, "Tracking profile of mlruns_config.")
            found["experiment"] = Option("experiment", str | None, None, "MLflow experiment name.")
        elif is_dataclass(kind):
            own = flatten(default) if is_dataclass(default) else {}
            for option in options_of(kind):
                found[option.name] = replace(option, default=own.get(option.name, option.default))
        elif _is_plain(kind):
            found[key] = Option(key, kind, default, texts.get(key, ""))
    return found


def _parameter_texts(function: Callable[..., Any]) -> dict[str, str]:
    from docstring_parser import parse_from_object

    return {item.arg_name: " ".join((item.description or "").split()) for item in parse_from_object(function).params}


def _is_plain(kind: Any) -> bool:
    """Say whether text can give a value of this type."""
    if get_origin(kind) is Literal or kind in (str, int, float, bool, type(None), Ellipsis):
        return True
    return bool(get_args(kind)) and get_origin(kind) is not Callable and all(map(_is_plain, get_args(kind)))


def parse_arguments(name: str, words: Sequence[str]) -> dict[str, Any]:
    """Return the value of every flag of a command, from what was typed, YAML and environment.

    Raises:
        ConfigError: if an option is unknown or a value has the wrong type.
    """
    from jsonargparse import ArgumentError, ArgumentParser

    command, function = COMMANDS[name], load_function(name)
    options = options_for(function)
    kinds = {key: option.kind for key, option in options.items()}
    told = [f"The value of --{given} may be given without its flag." for given in command.positional]
    parser = ArgumentParser(
        prog=f"diffviews {name}",
        exit_on_error=False,
        description=" ".join([(inspect.getdoc(function) or "").partition("\n")[0], *told]),
    )
    parser.add_argument("--config", action="config", help="YAML file with values for these flags")
    for key, option in options.items():
        given = {"required": True} if option.default is inspect.Parameter.empty else {"default": option.default}
        parser.add_argument(f"--{key}", type=option.kind, help=option.text.replace("%", "%%"), **given)
    spelled = _spell_out(command, kinds, [*_from_environment(kinds), *words])
    try:
        values = parser.parse_args(spelled).as_dict() | _comments(spelled, kinds)
    except ArgumentError as error:
        raise ConfigError(_explain(str(error), kinds)) from error
    return {key: values[key] for key in options}


def call(function: Callable[..., Any], values: Mapping[str, Any]) -> Any:
    """Call the function behind a command with the values of its flags.

    Raises:
        DiffViewsError: for values that contradict each other, and whatever the function raises.
    """
    from diffviews.pipelines.workspace import Workspace, open_workspace
    from diffviews.recipes.options import build, options_of

    hints, given = get_type_hints(function), dict[str, Any]()
    for key in inspect.signature(function).parameters:
        kind = hints[key]
        if kind is not Workspace and is_dataclass(kind):
            given[key] = build(kind, {o.name: values[o.name] for o in options_of(kind)})  # type: ignore[arg-type]
        elif key in values:
            given[key] = values[key]
    for key, kind in hints.items():  # last: contradictions cost no connection
        if kind is Workspace:
            given[key] = open_workspace(values["profile"], values["experiment"])
    return function(**given)


def _spell_out(command: Command, options: Mapping[str, Any], words: Sequence[str]) -> list[str]:
    """Rewrite positional words, short flags, dashes, bare switches and 'a,b' lists as `--name=value`."""
    aliases, positional = dict(command.aliases), list(command.positional)
    spelled, rest, listed = [], list(words), list[str]()
    while rest:
        word = rest.pop(0)
        if not word.startswith("-"):
            if not positional:
                raise ConfigError(f"{word!r} has no flag before it; write --NAME {word}")
            if _is_list(options[positional[0]]):
                listed.append(word)
            else:
                spelled.append(f"--{positional.pop(0)}={word}")
            continue
        flag, equals, value = word.partition("=")
        if flag in ("-h", "--help", "--print_config"):
            spelled.append(word)
            continue
        key = aliases.get(flag, flag.lstrip("-").replace("-", "_"))
        if key not in options and key != "config":
            raise ConfigError(unknown_name("option", flag, [f"--{name}" for name in options]))
        if not equals:
            value = _value_after(flag, options.get(key), rest)
        spelled.append(f"--{key}={_as_yaml(value, options.get(key))}")
    if listed:
        spelled.append(f"--{positional[0]}={_as_yaml(','.join(listed), options[positional[0]])}")
    return spelled


def _from_environment(options: Mapping[str, Any]) -> list[str]:
    """Return the flags that DIFFVIEWS_<FLAG> variables stand for; what is typed comes later and wins."""
    found = {key: os.environ.get(f"DIFFVIEWS_{key.upper()}", "") for key in options}
    return [f"--{key}={value}" for key, value in found.items() if value]


def _value_after(flag: str, kind: Any, rest: list[str]) -> str:
    if kind is bool and (not rest or rest[0].lower() not in ("true", "false")):
        return "true"
    if not rest:
        raise ConfigError(f"{flag} needs a value")
    return rest.pop(0)


def _as_yaml(value: str, kind: Any) -> str:
    """Return a value as YAML reads it: 'a,b' is a list where one is wanted, 'none' is null."""
    if value.lower() == "none" and type(None) in get_args(kind):
        return "null"
    if _is_mapping(kind):
        return _mapping(value)
    if not _is_list(kind) or value == "null":
        return value
    items = value if value.startswith("[") else f"[{value}]"
    return _texts(items) if _is_list(kind, of=(str,)) else items


def _texts(items: str) -> str:
    """Return a YAML list as one of texts: sample ids may be numbers, such as 0 or 007."""
    import json

    import yaml

    try:
        read = yaml.BaseLoader(items).get_single_data()  # knows no numbers
    except yaml.YAMLError:
        return items
    texts = isinstance(read, list) and all(isinstance(item, str) for item in read)
    return json.dumps(read, ensure_ascii=False) if texts else items


def _is_list(kind: Any, of: tuple[Any, ...] = ()) -> bool:
    lists = [option for option in (kind, *get_args(kind)) if get_origin(option) in (list, tuple)]
    return any(not of or get_args(option)[0] in of for option in lists)


def _is_mapping(kind: Any) -> bool:
    return any(get_origin(option) is dict for option in (kind, *get_args(kind)))


def _mapping(value: str) -> str:
    """Return '{cats: 281}', or a YAML file that holds such, as JSON: texts as written, 'no' too, and whole numbers.

    Raises:
        ConfigError: if it is neither.
    """
    import json

    import yaml

    try:
        text = Path(value).read_text(encoding="utf-8") if Path(value).is_file() else value
        read = yaml.compose(text, Loader=yaml.SafeLoader)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"{value[:60]!r} is no YAML: {' '.join(str(error).split())}") from error
    if read is None or read.tag.endswith(":null"):
        return "null"
    pairs = read.value if isinstance(read, yaml.MappingNode) else []
    if not pairs or not all(isinstance(node, yaml.ScalarNode) for pair in pairs for node in pair):
        raise ConfigError(f"{value[:60]!r} is no mapping such as {{cats: 281}}, nor a YAML file of one")
    items = {key.value: int(n.value) if n.tag.endswith(":int") and n.value.isdecimal() else n.value for key, n in pairs}
    return json.dumps(items, ensure_ascii=False)


def _comments(spelled: Sequence[str], options: Mapping[str, Any]) -> dict[str, str]:
    """Return the texts that YAML takes for comments, such as the prompt '#sunset', by their flags."""
    pairs = [word.removeprefix("--").partition("=")[::2] for word in spelled]
    texts = (str, str | None)
    return {key: value for key, value in pairs if options.get(key) in texts and value.lstrip().startswith("#")}


def _explain(message: str, options: Mapping[str, Any]) -> str:
    """Shorten jsonargparse's message and offer the nearest name for an unknown key."""
    quoted = message.split("'")
    if "is not accepted" in message and len(quoted) > 1:
        return unknown_name("option", quoted[1], options)
    return " ".join(message.split())


if __name__ == "__main__":
    main()
