"""The command line: help without model code, nearest names, lists, switches, YAML and environment."""

import re
import subprocess
import sys

import pytest

from diffviews.cli import COMMANDS, load_function, main, overview, parse_arguments
from diffviews.errors import ConfigError
from diffviews.recipes import ExtractionRecipe
from tests.jobs import recipe_of


def test_help_imports_no_model_code():
    script = (
        "import sys\nfrom diffviews.cli import overview\noverview()\n"
        "heavy = {'torch', 'mlflow', 'panel', 'umap', 'sklearn'} & set(sys.modules)\nsys.exit(bool(heavy))"
    )
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0


def test_help_lists_every_command():
    assert all(name in overview() for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_command_has_a_documented_function(name):
    assert load_function(name).__doc__


def test_unknown_command_exits_2_and_offers_the_nearest(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["extrct"])
    assert stop.value.code == 2
    assert "did you mean 'extract'" in capsys.readouterr().err


def test_unknown_option_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match="did you mean '--layers'"):
        parse_arguments("extract", ["--layerz", "midblock"])


def test_wrong_type_is_refused_by_name():
    with pytest.raises(ConfigError, match="batch_size"):
        parse_arguments("extract", ["--batch_size", "many"])


@pytest.mark.parametrize("written", ["0,1,007", "[0, 1, 007]", '["0", "1", "007"]', '0,"1",\'007\''])
def test_ids_of_samples_that_are_numbers_stay_text(written):
    assert parse_arguments("generate", ["--sample_ids", written])["sample_ids"] == ("0", "1", "007")
    assert parse_arguments("generate", ["--channels", "0,1"])["channels"] == (0, 1)


def test_lists_are_written_with_commas():
    values = parse_arguments("extract", ["--layers", "midblock,encoder_block_0", "--sigmas=0.5,2"])
    assert list(values["layers"]) == ["midblock", "encoder_block_0"]
    assert list(values["sigmas"]) == [0.5, 2.0]


def test_switches_need_no_value():
    assert parse_arguments("extract", ["--force", "--resume", "false"])["force"] is True


def test_dashes_and_underscores_are_the_same():
    assert parse_arguments("extract", ["--batch-size", "7"])["batch_size"] == 7


def test_dataclass_fields_are_flags():
    values = parse_arguments("generate", ["--num-samples", "3", "--class-label", "0", "--sample-ids", ""])
    assert values["num_samples"] == 3
    assert values["class_label"] == 0
    assert values["sample_ids"] == ()


def test_yaml_and_environment_fill_flags(tmp_path, monkeypatch):
    config = tmp_path / "job.yaml"
    config.write_text("layers: [midblock]\nsigmas: [1.0]\n")
    monkeypatch.setenv("DIFFVIEWS_BATCH_SIZE", "9")
    values = parse_arguments("extract", ["--config", str(config)])
    assert list(values["layers"]) == ["midblock"]
    assert values["batch_size"] == 9


def test_unknown_key_in_yaml_is_refused_with_the_nearest(tmp_path):
    config = tmp_path / "job.yaml"
    config.write_text("layer: [midblock]\n")
    with pytest.raises(ConfigError, match="did you mean 'layers'"):
        parse_arguments("extract", ["--config", str(config)])


def test_positional_argument_of_replay():
    assert parse_arguments("replay", ["abc"])["run"] == "abc"


def test_failure_prints_one_sentence_and_exits_1(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["layers", "--model", "edm-digit"])
    assert stop.value.code == 1
    message = capsys.readouterr().err
    assert "did you mean 'edm-digits'" in message
    assert "Traceback" not in message


@pytest.mark.parametrize(("text", "components"), [("none", None), ("0", None), ("30", 30)])
def test_environment_sets_the_principal_components(monkeypatch, text, components):
    monkeypatch.setenv("DIFFVIEWS_PCA_COMPONENTS", text)
    assert recipe_of(ExtractionRecipe, "extract").maps.pca_components == components


def test_typed_flags_win_over_the_environment(monkeypatch):
    monkeypatch.setenv("DIFFVIEWS_BATCH_SIZE", "9")
    assert parse_arguments("extract", ["--batch-size", "7"])["batch_size"] == 7


@pytest.mark.parametrize("text", ["#sunset", "a: b", "[x, y]", "12", "true", "a photo of a cat, at night"])
def test_prompt_arrives_as_it_was_typed(text):
    assert parse_arguments("generate", [f"--prompt={text}"])["prompt"] == text
    assert parse_arguments("generate", ["--prompt", text])["prompt"] == text


def test_commands_that_serve_one_process_refuse_torchrun(monkeypatch, capsys):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "run")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SystemExit) as ended:
        main(["layers"])
    assert ended.value.code == 2
    assert "runs in one process; torchrun serves extract, generate-dataset, train alone" in capsys.readouterr().err


@pytest.mark.parametrize("name", COMMANDS)
def test_every_flag_says_what_it_does(name, capsys):
    with pytest.raises(SystemExit):
        parse_arguments(name, ["--help"])
    told = " ".join(capsys.readouterr().out.split())
    assert "--config" in told
    assert re.findall(r"--(\w+) \S+ \(type:", told) == []


def test_help_of_a_positional_argument_says_that_it_is_one(capsys):
    with pytest.raises(SystemExit):
        parse_arguments("import", ["--help"])
    assert "--path may be given without its flag" in " ".join(capsys.readouterr().out.split())
