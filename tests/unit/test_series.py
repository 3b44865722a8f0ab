"""A series says what each sample is asked for; growing it changes nothing before."""

import pytest

from diffviews.data.prompts import read_prompts
from diffviews.errors import ConfigError
from diffviews.pipelines.series import Series
from tests.fakes import GaussianAdapter, TextAdapter


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.csv"
    path.write_text("prompt,negative_prompt,category\na dog,blurry,animal\na house,,building\na cat,,animal\n")
    return read_prompts(path)


def test_prompts_take_turns_with_their_negative_prompts_and_categories(prompts):
    series = Series.of_prompts(TextAdapter(), prompts, samples_per_prompt=2)
    assert series.total == 6
    assert series.prompts == ("a dog", "a house", "a cat") * 2
    assert series.negative_prompts == ("blurry", "", "") * 2
    assert series.category_labels(2, 3) == ([0, 0, 1], ["animal", "animal", "building"])


def test_growing_keeps_the_digest_of_what_came_before(prompts):
    few = Series.of_prompts(TextAdapter(), prompts, samples_per_prompt=1)
    many = Series.of_prompts(TextAdapter(), prompts, samples_per_prompt=3)
    assert many.digest(3) == few.digest(3)
    assert many.digest(9) != few.digest(3)
    assert Series(10).digest(4) == Series(4).digest(4)
    assert Series.by_class(GaussianAdapter(), 2).digest(4) == Series.by_class(GaussianAdapter(), 1).digest(4)


def test_seeds_of_a_prompt_file_are_said_to_be_unused(tmp_path, caplog):
    path = tmp_path / "prompts.csv"
    path.write_text("prompt,seed\na dog,7\n")
    Series.of_prompts(TextAdapter(), read_prompts(path), samples_per_prompt=1)
    assert "seeds in the prompt file are not used" in caplog.text


def test_prompts_need_a_model_that_takes_them(prompts):
    with pytest.raises(ConfigError, match="takes prompts"):
        Series.of_prompts(GaussianAdapter(), prompts, samples_per_prompt=1)
    with pytest.raises(ConfigError, match="0 samples a prompt"):
        Series.of_prompts(TextAdapter(), prompts, samples_per_prompt=0)
    with pytest.raises(ConfigError, match="model with classes"):
        Series.by_class(TextAdapter(), 2)
