"""The visitor's state: selections are values, and an address holds the view."""

import pytest

from panel_app.components import Html
from panel_app.filter import Filter
from panel_app.state import Address, Selection, ViewState


def test_first_click_selects_and_a_click_on_it_clears():
    selection = Selection().click("a")
    assert selection.sample_id == "a"
    assert selection.click("a") == Selection()


def test_click_on_another_sample_toggles_a_manual_neighbour():
    selection = Selection("a").click("b")
    assert selection.manual == ("b",)
    assert selection.click("b").manual == ()


def test_click_on_a_suggested_neighbour_removes_it():
    selection = Selection("a", suggested=("b", "c")).click("b")
    assert selection.suggested == ("c",)
    assert selection.manual == ()


def test_suggestions_leave_out_the_selected_sample_and_manual_neighbours():
    selection = Selection("a", manual=("c",)).suggest(("a", "b", "c", "d"))
    assert selection.suggested == ("b", "d")
    assert selection.members == ("a", "b", "d", "c")


def test_members_without_a_selected_sample_are_none():
    assert Selection(manual=("b",)).members == ()


def test_selection_on_another_map_keeps_only_samples_it_has():
    selection = Selection("a", ("b", "x"), ("y", "c"))
    assert selection.only({"a": 0, "b": 1, "c": 2}) == Selection("a", ("b",), ("c",))
    assert selection.only({"b": 0}) == Selection()


def test_address_round_trips_the_view():
    state = ViewState(
        extraction="r1",
        layer="midblock",
        sigma=0.002,
        map_run="m1",
        colour_by="distance_to_data",
        filter=Filter()
        .with_values("class", ("3: three", "a, b"))
        .with_values("prompt_cluster", ("1: dog, é",))
        .with_range("distance_to_data", (0.25, 7.0))
        .with_words("red dog"),
        selection=Selection("s,1", ("s 2",), ("s&3",)),
    )
    address = Address.from_query({k: v for k, v in state.to_query().items() if v is not None})
    assert (address.run, address.layer, address.sigma, address.map) == ("r1", "midblock", 0.002, "m1")
    assert address.colour == "distance_to_data"
    assert set(address.filter.values) == set(state.filter.values)
    assert (address.filter.ranges, address.filter.words) == (state.filter.ranges, "red dog")
    assert address.selection == state.selection


def test_address_of_an_untouched_view_is_empty():
    assert not any(ViewState().to_query().values())


@pytest.mark.parametrize(
    "query",
    [
        {"sigma": "nan", "near": "not json", "sample": ""},
        {"sigma": "two", "near": '{"a": 1}', "classes": "[1, 2]"},
        {"near": '["b"]', "also": '["c"]'},  # neighbours of nothing
        {"where": "[1]", "words": "  "},
        {"where": '{"a": {"from": 3, "to": 1}, "b": {"from": "x", "to": 2}, "c": [1], "d": 5}'},
        {"where": "{"},
    ],
)
def test_malformed_address_counts_as_absent(query):
    address = Address.from_query(query)
    assert address.sigma is None
    assert not address.filter
    assert address.selection == Selection()


def test_address_never_names_a_sample_twice():
    address = Address.from_query({"sample": "a", "near": '["a", "b", "b"]', "also": '["b", "c"]'})
    assert address.selection == Selection("a", ("b",), ("c",))


def test_model_of_the_settings_is_read_from_the_environment():
    from panel_app.settings import Settings

    assert Settings.read([], {"DIFFVIEWS_MODEL": "sd-v1.5"}).model == "sd-v1.5"
    assert Settings.read(["--model", "sdxl"], {"DIFFVIEWS_MODEL": "sd-v1.5"}).model == "sdxl"


def test_hidden_html_is_hidden_by_its_style_and_keeps_its_own():
    pane = Html("text", visible=False, styles={"left": "0"})
    model = pane.get_root()
    assert (model.visible, model.styles) == (True, {"left": "0", "display": "none"})
    pane.visible = True
    assert (model.visible, model.styles) == (True, {"left": "0", "display": "block"})
    pane.param.update(visible=False, styles={"top": "1"})
    assert (model.visible, model.styles) == (True, {"top": "1", "display": "none"})
