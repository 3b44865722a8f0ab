"""The files by which a team deploys: every command in them exists with its flags, and no secret stands in them."""

import itertools
import json
import re
import shlex
import tomllib
from pathlib import Path

import click
import pytest
import yaml

from diffviews.cli import COMMANDS, parse_arguments

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "mlruns_config"
PAGE = ROOT / "docs" / "deployment.md"
COMPOSE = yaml.safe_load((CONFIG / "compose.yaml").read_text())
FILES = [PAGE, *sorted(path for path in CONFIG.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc"))]
SECRET = re.compile(r"PASSWORD|SECRET|TOKEN|_KEY\b|ENCRYPTION|MINIO_ROOT|STORE_USER")
OTHER_PROGRAMS = {"docker", "kubectl", "pip", ".venv/bin/pip"}


def shell_lines():
    """Yield the commands of the page's code blocks, one line each."""
    fences = re.findall(r"^```(\w*)\n(.*?)^```", PAGE.read_text(), flags=re.DOTALL | re.MULTILINE)
    for language, block in fences:
        for line in block.splitlines() if not language else ():
            if line.strip() and not line.startswith("#"):
                yield line


def split(line):
    """Return the words of a line, none for one that only sets variables; what a shell would fill in is one word."""
    words = shlex.split(re.sub(r"\$\([^)]*\)", "$FILLED", line), comments=True)
    return [] if words[0] == "export" else words


def check_command(words):
    """Fail when a command does not exist or does not know one of its flags."""
    while "=" in words[0] or words[0] == "srun":
        words = words[1:]
    program, *rest = words
    if program == "diffviews":
        if rest != ["--help"]:
            assert rest[0] in COMMANDS, f"there is no command {rest[0]!r}"
            parse_arguments(rest[0], rest[1:])
    elif program == "mlflow":
        _check_mlflow(rest)
    elif program == "torchrun":
        _check_torchrun(rest)
    else:
        assert program in OTHER_PROGRAMS, f"unknown program {program!r}"


def _check_mlflow(words):
    from mlflow.cli import cli

    command = cli.get_command(click.Context(cli), words[0])
    assert command is not None, f"mlflow has no command {words[0]!r}"
    given, _, _ = command.make_parser(click.Context(command)).parse_args(words[1:])
    if words[0] == "run":
        project = yaml.safe_load((ROOT / given["uri"] / "MLproject").read_text())
        assert given["entry_point"] in project["entry_points"]
        assert (ROOT / given["backend_config"]).is_file()


def _check_torchrun(words):
    from torch.distributed.run import get_args_parser

    plain = ["2" if word.startswith("$") else word for word in words]
    found = get_args_parser().parse_args(plain)
    assert (found.module, found.training_script) == (True, "diffviews")
    check_command(["diffviews", *found.training_script_args])


@pytest.fixture(autouse=True)
def nothing_from_outside(monkeypatch):
    monkeypatch.chdir(ROOT)
    for name in ("DIFFVIEWS_PROFILE", "DIFFVIEWS_EXPERIMENT", "DIFFVIEWS_DEVICE"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("line", [line for line in shell_lines() if split(line)])
def test_command_of_the_page_exists_with_its_flags(line):
    check_command(split(line))


def test_wrong_commands_would_be_found():
    for line in (
        "diffviews extrakt",
        "diffviews viz --prot 1",
        "mlflow serve",
        "mlflow server --artifact-destination x",
        "torchrun --nnode-count 2 -m diffviews extract",
        "torchrun --nnodes 2 -m diffviews extract --sigma 1",
        "minikube start",
    ):
        with pytest.raises((AssertionError, click.UsageError, ValueError, SystemExit)):
            check_command(split(line))


@pytest.mark.parametrize("name", [name for name, s in COMPOSE["services"].items() if "build" in s])
def test_command_of_a_service_exists_with_its_flags(name):
    check_command(list(map(str, COMPOSE["services"][name]["command"])))


def test_services_name_each_other_their_volumes_and_their_secrets():
    services = COMPOSE["services"]
    assert set(services) == {"database", "store", "bucket", "tracking", "worker", "dashboard"}
    for name, service in services.items():
        assert set(service.get("depends_on", {})) <= set(services) - {name}
        assert {volume.split(":")[0] for volume in service.get("volumes", [])} <= set(COMPOSE["volumes"])
        assert set(service.get("secrets", [])) <= set(COMPOSE["secrets"])
        waits_for = [n for n, how in service.get("depends_on", {}).items() if how["condition"] == "service_healthy"]
        assert all("healthcheck" in services[other] for other in waits_for)
        assert "healthcheck" in service or service["restart"] == "no"
    ports = {port for service in services.values() for port in service.get("ports", [])}
    assert ports == {"127.0.0.1:5000:5000", "127.0.0.1:5006:5006"}


def test_services_find_each_other_where_they_listen():
    services = COMPOSE["services"]
    built = {name: service["command"] for name, service in services.items() if "build" in service}
    flags = {name: dict(itertools.pairwise(words)) for name, words in built.items()}
    member = services["dashboard"]["environment"]
    assert member["DIFFVIEWS_TRACKING_SERVER"] == f"http://tracking:{flags['tracking']['--port']}"
    assert flags["dashboard"]["--worker"] == f"http://worker:{flags['worker']['--port']}"
    for name in ("tracking", "worker", "dashboard"):
        assert f":{flags[name]['--port']}/" in services[name]["healthcheck"]["test"][-1]
    assert "tracking:5000" in flags["tracking"]["--allowed-hosts"].split(",")
    assert member["PANEL_BASIC_AUTH"] == f"/run/secrets/{services['dashboard']['secrets'][0]}"


def test_every_image_is_pinned():
    images = {service["image"] for service in COMPOSE["services"].values()}
    images |= set(re.findall(r"^FROM (\S+)", (CONFIG / "Dockerfile").read_text(), flags=re.MULTILINE))
    for image in images:
        tag = image.rpartition("/")[2].partition(":")[2]
        assert re.search(r"\d", tag), f"{image} is not pinned"


def test_secrets_of_the_services_come_from_the_environment_and_are_asked_for():
    found = 0
    for name, service in COMPOSE["services"].items():
        for key, value in service.get("environment", {}).items():
            if SECRET.search(key) or ("://" in str(value) and "@" in str(value)):
                found += 1
                assert re.search(r"\$\{\w+:\?[^}]+\}", value), f"{name}: {key} is not asked for"
                rest = re.sub(r"\$\{[^}]*\}", "", value)
                assert rest == "" or rest == "postgresql://diffviews:@database:5432/mlflow", f"{name}: {key}"
    assert found >= 10
    assert all(set(secret) == {"environment"} for secret in COMPOSE["secrets"].values())


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_secret_stands_in_a_file(path):
    name = r"""\b(\w*(?:PASSWORD|SECRET|TOKEN|_KEY|ENCRYPTION|password)\w*)"""
    given = re.compile(name + r"""["']?[ \t]*[=:][ \t]*["']?([^\s"']+)""")
    harmless = re.compile(r"\$|…|\{|/|\[|\?set|(R2|DIFFVIEWS)_[A-Z_]+$")
    for name, value in given.findall(path.read_text()):
        assert name.endswith("ACCESS_KEY_ID") or harmless.match(value), f"{name} is given a value: {value}"


def test_dockerfile_copies_what_is_there_and_installs_what_exists():
    text = (CONFIG / "Dockerfile").read_text()
    for sources in re.findall(r"^COPY (.+) \S+$", text, flags=re.MULTILINE):
        for source in sources.split():
            assert (ROOT / source).exists(), f"COPY {source}"
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]["include"]
    assert all(f"COPY {package.rstrip('*')} " in text for package in packages)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (asked,) = re.findall(r"'\.\[([\w,]+)\]'", text)
    assert set(asked.split(",")) <= set(extras)
    assert COMPOSE["services"]["worker"]["build"]["dockerfile"] == "mlruns_config/Dockerfile"


def test_kubernetes_template_has_the_places_that_mlflow_fills():
    folder = CONFIG / "kubernetes"
    backend = json.loads((folder / "backend.json").read_text())
    job = yaml.safe_load((ROOT / backend["kube-job-template-path"]).read_text())
    assert (job["kind"], job["apiVersion"], job["spec"]["backoffLimit"]) == ("Job", "batch/v1", 0)
    assert {"name", "namespace"} <= set(job["metadata"])
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert {"name", "image", "command", "env"} <= set(container)
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    project = yaml.safe_load((folder / "MLproject").read_text())
    assert project["docker_env"]["image"].startswith(backend["repository-uri"])
    jobs = yaml.safe_load((ROOT / "MLproject").read_text())["entry_points"]
    assert set(project["entry_points"]) <= set(jobs)
    for point in project["entry_points"].values():
        assert point["command"].split()[1] in COMMANDS


def test_variables_of_the_page_are_read_by_someone():
    sources = "".join(p.read_text() for folder in ("diffviews", "panel_app") for p in (ROOT / folder).rglob("*.py"))
    known = sources + "".join(path.read_text() for path in FILES if path != PAGE)
    for line in shell_lines():
        for name in re.findall(r"^(?:export )?((?:DIFFVIEWS|R2)_\w+)=", line):
            assert name in known or name.removeprefix("DIFFVIEWS_").lower() in sources, f"nobody reads {name}"
