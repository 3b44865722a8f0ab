"""Analysis and export as a visitor uses them, without a browser: clusters, outliers, groups, files."""

import csv
import io
import json
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from dashboard_synthetic import SIGMAS, PromptRuns, SyntheticRunner, SyntheticRuns

from diffviews.errors import ConfigError, SelectionError, TrackingError
from diffviews.processing.clusters import find_clusters
from diffviews.processing.enrichment import enrich_values
from panel_app.analysis.extremes_section import OUTLIERS, TRUSTED, extremes
from panel_app.analysis.group_section import NUMBERS, WORDS
from panel_app.analysis.sample_lists import LONGEST, WITH_PICTURES
from panel_app.cards import hover_card, selected_card
from panel_app.clustering import CLUSTER, Clustering, find
from panel_app.computing.job_bar import SessionJobs
from panel_app.dashboard import Dashboard
from panel_app.data import DataStore
from panel_app.export.files import make_file
from panel_app.filter import Filter
from panel_app.points import LEVEL, NO_CLUSTER
from panel_app.session import Session
from panel_app.state import Address, Group, Selection

HOSTILE = '<script>alert(1)</script>"onload=alert(2)'


@pytest.fixture(scope="module")
def runs():
    return SyntheticRuns(200, "http://localhost:5000")


@pytest.fixture
def dashboard(runs):
    runs.exports.clear()
    view = Dashboard(DataStore(runs), SyntheticRunner(runs), SessionJobs())
    view.open({})
    return view


def finish(bar):
    deadline = time.monotonic() + 60
    while bar.busy:
        assert time.monotonic() < deadline, "the job does not end"
        time.sleep(0.01)
        bar.follow()


def look_at(dashboard, part):
    dashboard.tabs.show("Analysis")
    dashboard.analysis.part.value = part
    return dashboard.analysis


def find_clusters_on(dashboard, **values):
    section = look_at(dashboard, "clusters").clusters
    for name, value in {"min_size": 8, **values}.items():
        getattr(section, name).value = value
    section.find()
    finish(section.bar)
    return section


# -- clusters ----------------------------------------------------------------------------


def test_clusters_become_a_column_that_colours_the_map_and_no_shared_table_changes(dashboard):
    session, before = dashboard.session, dashboard.session.map
    columns = list(before.table.columns)
    section = find_clusters_on(dashboard)
    assert session.notice is None
    assert session.state.colour_by == CLUSTER
    expected = find_clusters(before.table[["x", "y"]].to_numpy(float), 8)
    assert (section.found.numbers == expected).all()
    names = [*section.found.names, NO_CLUSTER]
    assert list(session.map.table[CLUSTER].astype(str)) == [names[number] for number in expected]
    assert list(before.table.columns) == columns
    assert session.store.open(before.layer) is before
    assert session.map.colouring(CLUSTER).colours[-1] == "#9aa1ab"


def test_table_of_clusters_counts_size_majority_and_purity(dashboard):
    section, layer_map = find_clusters_on(dashboard), dashboard.session.map
    assert section.table.rows
    for row in section.table.rows:
        members = layer_map.table[section.found.numbers == int(row["id"])]
        counts = members["class"].astype(str).value_counts()
        assert row["size"] == len(members)
        assert row["purity"] == pytest.approx(counts.iloc[0] / len(members))
        assert row["trust"] == pytest.approx(members["neighborhood_preservation"].mean())
        assert row["cluster"].endswith("mostly " + counts.index[0].partition(": ")[2])


def test_click_on_a_cluster_marks_its_samples(dashboard):
    section, layer_map = find_clusters_on(dashboard), dashboard.session.map
    section.table._on_message({"open": section.table.rows[0]["id"]})
    marked = dashboard.session.state.group.sample_ids
    assert set(marked) == set(layer_map.table["sample_id"][section.found.numbers == 0])
    for nonsense in ({"open": "99"}, {"open": "-1"}, {"open": None}, {}):
        section.table._on_message(nonsense)
    assert dashboard.session.state.group.sample_ids == marked


def test_clusters_of_activations_are_those_of_the_projectors_points(dashboard):
    section, layer_map = find_clusters_on(dashboard, space="activation", min_size=5), dashboard.session.map
    by_projector = find_clusters(layer_map.projector.pca_points, 5)
    of_sample = dict(zip(layer_map.projector.sample_ids, by_projector, strict=True))
    other = {
        (a, b) for a, b in zip(section.found.numbers, map(of_sample.get, layer_map.table["sample_id"]), strict=True)
    }
    assert len({a for a, _ in other}) == len({b for _, b in other}) == len(other)  # the same but for numbering


def test_address_with_clusters_shows_them_coloured(dashboard, runs):
    find_clusters_on(dashboard)
    query = {k: v for k, v in dashboard.session.state.to_query().items() if v is not None}
    assert query["clusters"] == "map-8"
    colleague = Dashboard(DataStore(runs), SyntheticRunner(runs), SessionJobs())
    colleague.open(query)
    finish(colleague.analysis.clusters.bar)
    assert colleague.session.state.colour_by == CLUSTER
    assert list(colleague.session.map.table[CLUSTER]) == list(dashboard.session.map.table[CLUSTER])


def test_clusters_follow_to_another_layer_and_are_found_once_for_all(dashboard):
    find_clusters_on(dashboard)
    first = dashboard.session.map
    dashboard.session.choose_layer("midblock", 2.0)
    finish(dashboard.analysis.clusters.bar)
    assert dashboard.session.map.layer.layer == "midblock"
    assert dashboard.session.state.colour_by == CLUSTER
    dashboard.session.choose_layer(first.layer.layer, first.layer.sigma)
    assert not dashboard.analysis.clusters.bar.busy
    assert list(dashboard.session.map.table[CLUSTER]) == list(first.table[CLUSTER])


def test_removed_clusters_leave_the_map_as_it_was(dashboard):
    before = dashboard.session.map
    find_clusters_on(dashboard)
    dashboard.session.drop_clusters()
    assert dashboard.session.map is before
    assert dashboard.session.state.colour_by == "class"
    assert dashboard.session.state.to_query()["clusters"] is None


def test_impossible_clusters_are_told_in_a_sentence(dashboard):
    with pytest.raises(ConfigError, match="choose 2 or more"):
        find(dashboard.session.map, Clustering("map", 1))
    for text in ("map-1", "map", "space-5", "map--5", "map-x", None, "map-9999999"):
        assert Clustering.read(text) is None
    assert Clustering.read("activation-12") == Clustering("activation", 12)


def test_clusters_of_prompts_are_named_by_their_words():
    runs = PromptRuns(200, categories=False)
    session = Session(DataStore(runs))
    session.start(Address())
    found = find(session.map, Clustering("map", 8))
    assert found.names
    words = {word for name in found.names for word in name.partition(": ")[2].split(", ")}
    assert words & {"zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"}


def test_clusters_of_a_joint_map_are_of_points_and_mark_each_sample_once(dashboard):
    base = dashboard.session.map
    table = pd.concat([base.table, base.table], ignore_index=True)
    table["sigma"] = pd.Categorical([f"σ {s:g}" for s in SIGMAS for _ in range(len(base.table))])
    table[LEVEL] = np.repeat(SIGMAS, len(base.table))
    ids = base.projector.sample_ids
    projector = SimpleNamespace(
        sample_ids=(*ids, *ids),
        row_sigmas=np.repeat(SIGMAS, len(ids)),
        pca_points=np.concatenate([base.projector.pca_points, base.projector.pca_points + 500]),
        parameters=base.projector.parameters,
    )
    joint = replace(base, map_run="joint", table=table, projector=projector)
    found = find(joint, Clustering("activation", 5))
    levels = [set(table[LEVEL][found.numbers == n]) for n in range(len(found.names))]
    assert levels
    assert all(len(level) == 1 for level in levels)  # the two levels are far apart
    members = found.members(joint, 0)
    assert len(members) == len(set(members)) == found.summaries[0].size


# -- groups ------------------------------------------------------------------------------


def test_group_is_compared_with_the_rest_by_class(dashboard):
    session = dashboard.session
    ids = [f"digits-{i:04d}" for i in range(30)]
    session.mark(ids)
    table = look_at(dashboard, "group").group.table
    member = session.map.table["sample_id"].isin(ids).to_numpy()
    expected = enrich_values(member, session.map.table["class"].astype(str))
    assert [row["value"] for row in table.rows] == [row.value for row in expected]
    assert [row["q"] for row in table.rows] == [row.q for row in expected]
    best = expected[0]
    assert table.rows[0]["share_text"] == f"{best.inside} · {best.share:.0%}"
    assert f"{best.inside} of 30 here" in table.rows[0]["title"]
    assert f"{best.outside} of 170 elsewhere" in table.rows[0]["title"]


def test_without_marks_the_selection_is_the_group_and_without_either_a_sentence_is_shown(dashboard):
    section = look_at(dashboard, "group").group
    assert not section._body.visible
    assert "Mark samples" in section._heading.object
    dashboard.session.click("digits-0003")
    dashboard.session.suggest()
    assert "6 selected samples" in section._heading.object
    assert not section.list.removable
    dashboard.session.mark(["digits-0001"])
    assert "1 marked sample " in section._heading.object
    section.list._handle_msg({"remove": "digits-0001"})
    assert dashboard.session.state.group == Group()


def test_numbers_and_words_can_be_compared():
    runs = PromptRuns(200)
    dashboard = Dashboard(DataStore(runs), SyntheticRunner(runs), SessionJobs())
    dashboard.open({})
    layer_map = dashboard.session.map
    zeros = [s for s in layer_map.row_of if "zero" in layer_map.prompt_of(s)]
    dashboard.session.mark(zeros)
    section = look_at(dashboard, "group").group
    section.by.value = WORDS
    assert section.table.rows[0]["value"] == "zero"
    assert section.table.rows[0]["share"] == 1
    section.by.value = NUMBERS
    assert {row["value"] for row in section.table.rows} >= {"Distance to data"}
    assert section.table.columns[-1]["label"] == "d"


def test_slow_comparison_never_shows_what_was_asked_before(dashboard, monkeypatch):
    monkeypatch.setattr("panel_app.analysis.group_section._QUICK", 0)
    section = look_at(dashboard, "group").group
    dashboard.session.mark([f"digits-{i:04d}" for i in range(30)])
    dashboard.session.mark([f"digits-{i:04d}" for i in range(50, 60)])  # while the first is compared
    finish(section.bar)
    finish(section.bar)
    assert sum(int(row["share_text"].partition(" ")[0]) for row in section.table.rows) == 10


def test_everything_marked_has_no_rest_and_says_so(dashboard):
    dashboard.session.mark(list(dashboard.session.map.row_of))
    section = look_at(dashboard, "group").group
    assert section.table.rows == []
    assert "no rest" in section.table.empty


def test_long_lists_bring_few_pictures_and_give_the_others_when_asked(dashboard):
    ids = [f"digits-{i:04d}" for i in range(199)]
    dashboard.session.mark(ids)
    listed = look_at(dashboard, "group").group.list
    assert len(listed.entries) == 199 <= LONGEST
    assert sum(bool(entry["src"]) for entry in listed.entries) == WITH_PICTURES
    sent = []
    listed._send_msg = sent.append
    listed._handle_msg({"need": ["digits-0150", "not-listed", 7, "digits-0150"]})
    layer_map = dashboard.session.map
    assert sent == [{"pictures": {"digits-0150": layer_map.thumbnails(["digits-0150"])[0]}}]


# -- extremes ----------------------------------------------------------------------------


def test_outliers_are_the_farthest_shown_samples(dashboard):
    session = dashboard.session
    session.state.filter = Filter().with_values("class", ["3: three"])
    section = look_at(dashboard, "outliers").outliers
    table = session.map.table
    expected = table[table["class"] == "3: three"].nlargest(5, "distance_to_data")
    assert [entry["id"] for entry in section.list.entries[:5]] == list(expected["sample_id"])
    assert section.list.entries[0]["detail"] == f"{expected['distance_to_data'].iloc[0]:.2f}"
    section.list._handle_msg({"open": section.list.entries[1]["id"]})
    assert session.state.selection == Selection(section.list.entries[1]["id"])


def test_trust_is_one_click_away_and_back(dashboard):
    section = look_at(dashboard, "trust").trust
    values = dashboard.session.map.table.set_index("sample_id")["neighborhood_preservation"]
    assert section.list.entries[0]["id"] == values.idxmin()
    section.colour.clicks += 1
    assert dashboard.session.state.colour_by == "neighborhood_preservation"
    assert section.colour.label == "Colour by class again"
    section.colour.clicks += 1
    assert dashboard.session.state.colour_by == "class"


def test_map_without_the_measure_says_what_to_do(dashboard):
    section, layer_map = look_at(dashboard, "outliers").outliers, dashboard.session.map
    dashboard.session.map = layer_map.with_columns(distance_to_data=np.full(len(layer_map.table), np.nan))
    assert section.list.entries == []
    assert "re-compute it" in section._summary.object
    assert extremes(layer_map, TRUSTED, layer_map.table.iloc[:0], 5) == {}
    assert len(extremes(layer_map, OUTLIERS, layer_map.table, 7)) == 7


# -- export ------------------------------------------------------------------------------


def test_shown_table_holds_what_the_filter_shows_with_every_column(dashboard):
    session = dashboard.session
    session.state.filter = Filter().with_values("class", ["3: three"])
    session.click("digits-0003")
    session.suggest()
    dashboard.exports.scope.value = "shown"
    made = make_file(dashboard.exports.noted(), "csv")
    assert made.name == "edm-digits_decoder_block_2_sigma0.5_shown.csv"
    rows = list(csv.DictReader(io.StringIO(made.content.decode(), newline="")))
    shown = session.map.shown(session.state.filter)
    assert [row["sample_id"] for row in rows] == list(shown["sample_id"])
    assert [float(row["distance_to_data"]) for row in rows] == pytest.approx(list(shown["distance_to_data"]))
    (own,) = [row for row in rows if row["sample_id"] == "digits-0003"]
    assert (own["role"], own["distance_to_selected"], own["class"]) == ("selected", "0.0", "3: three")


def test_json_says_where_it_is_from(dashboard):
    dashboard.session.click("digits-0003")
    dashboard.session.suggest()
    dashboard.exports.scope.value = "selection"
    read = json.loads(make_file(dashboard.exports.noted(), "json").content)
    assert (read["layer"], read["sigma"], read["layer_run"]) == ("decoder_block_2", 0.5, "ext-1/decoder_block_2/0.5")
    assert [row["sample_id"] for row in read["samples"]] == list(dashboard.session.state.selection.members)
    distances = {row["sample_id"]: row["distance_to_selected"] for row in read["samples"][1:]}
    assert distances == pytest.approx(dashboard.session.distances)


def test_export_is_saved_and_logged_only_if_wished(dashboard, runs):
    sent = []
    dashboard.exports.saver.send = lambda *file: sent.append(file)
    dashboard.exports.open()
    assert dashboard.exports.scope.value == "shown"  # nothing is selected or marked
    dashboard.exports.export("csv")
    finish(dashboard.exports.bar)
    assert [file[:2] for file in sent] == [("edm-digits_decoder_block_2_sigma0.5_shown.csv", "text/csv")]
    assert not runs.exports
    dashboard.exports.log.value = True
    dashboard.exports.export("svg")
    finish(dashboard.exports.bar)
    ((source, files, _, link),) = runs.exports
    assert source == "ext-1/decoder_block_2/0.5"
    assert files == {sent[1][0]: sent[1][2]}
    assert "layer=decoder_block_2" in link
    assert "localhost:5000/#/experiments/1/runs/export-1" in dashboard.exports._message.object


def test_failed_export_is_told_in_the_menu(dashboard, runs, monkeypatch):
    def broken(*_, **__):
        raise TrackingError("the tracking server does not answer; is it running?")

    monkeypatch.setattr(runs, "log_export", broken)
    dashboard.exports.open()
    dashboard.exports.log.value = True
    dashboard.exports.export("csv")
    finish(dashboard.exports.bar)
    assert "the tracking server does not answer" in dashboard.exports._message.object
    dashboard.exports.scope.value = "marked"
    with pytest.raises(SelectionError, match="no sample"):
        make_file(dashboard.exports.noted(), "csv")


def test_hostile_texts_are_text_everywhere(runs):
    hostile = SyntheticRuns(60)
    labels = [HOSTILE if t == 3 else "=1+1" for t in hostile.labels]
    hostile.sample_set = type(hostile.sample_set).from_images(
        hostile.images, [f"digits-{i:04d}" for i in range(60)],
        class_labels=hostile.labels, class_names=labels, prompts=[f"{HOSTILE} {i}" for i in range(60)],
    )  # fmt: skip
    dashboard = Dashboard(DataStore(hostile), SyntheticRunner(hostile), SessionJobs())
    dashboard.open({"sample": "digits-0003", "group": '["digits-0003", "digits-0013"]'})
    dashboard.session.suggest()
    look_at(dashboard, "group")
    layer_map = dashboard.session.map
    pages = [
        selected_card(layer_map, "digits-0003"), hover_card(layer_map, layer_map.row_of["digits-0003"]),
        dashboard.analysis.group._heading.object,
        *(make_file(dashboard.exports.noted(), kind).content.decode() for kind in ("html", "svg")),
    ]  # fmt: skip
    for page in pages:
        assert "<script" not in page
        assert '"onload=' not in page
    table = make_file(dashboard.exports.noted(), "csv").content.decode()
    assert ",=" not in table.replace(',"=', ",=")
    assert HOSTILE.replace('"', '""') in table


# -- addresses of other runs -------------------------------------------------------------


def test_run_of_a_layer_or_map_opens_what_it_shows(runs):
    runs.places = {
        "a-layer-run": Address(run="ext-1", layer="midblock", sigma=2.0),
        "a-generation": Address(run="ext-1", layer="midblock", sigma=0.5, selection=Selection("digits-0003")),
    }
    session = Session(DataStore(runs))
    session.start(Address(run="a-layer-run"))
    assert session.notice is None
    assert (session.state.extraction, session.state.layer, session.state.sigma) == ("ext-1", "midblock", 2.0)
    session.start(Address(run="a-generation"))
    assert (session.state.sigma, session.state.selection) == (0.5, Selection("digits-0003"))
    session.start(Address(run="a-layer-run", layer="encoder_block_0"))
    assert session.state.layer == "encoder_block_0"
