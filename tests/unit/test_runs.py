"""Runs: what is logged, when it becomes visible, how it ends, and who may write."""

import hashlib
import io
import json
import math
import os
import sys
import threading

import pandas as pd
import pytest
from PIL import Image

from diffviews.data.storage.manifest import Manifest, files_below
from diffviews.errors import (
    CancelledError,
    ConfigError,
    DiskSpaceError,
    LayerNotFoundError,
    RunNotFoundError,
    TrackingError,
)
from diffviews.tracking.artifacts import ArtifactFolder, local_folder
from diffviews.tracking.catalog import Catalog
from diffviews.tracking.runs import Tracker
from diffviews.tracking.schema import Kind, RunTags, Tag, fingerprint
from tests.jobs import metric_series

ABOUT = RunTags(model="edm-digits", dataset="digits")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return f"sqlite:///{tmp_path_factory.mktemp('runs')}/mlflow.db"


@pytest.fixture(autouse=True)
def no_run_of_mlflow(monkeypatch):
    for name in ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def tracker(store):
    return Tracker(store)


def logged(tracker, run):
    return tracker.connection.call(lambda client: client.get_run(getattr(run, "run_id", run)))


def artifacts_of(run):
    return ArtifactFolder(run.run_id, run.artifact_uri, run._connection)


def visible(run):
    return files_below(local_folder(run.artifact_uri))


def abandon(run):
    """Leave a run as a killed process does: RUNNING, its lock gone with the process."""
    run._writer_lock.release()


def broken(run, error, work=lambda run: None):
    """Work within a run until `error` is raised."""
    with run:
        work(run)
        raise error


def png(size=(32, 24)):
    buffer = io.BytesIO()
    Image.new("RGB", size, (200, 30, 30)).save(buffer, "PNG")
    return buffer.getvalue()


def test_finished_run_holds_all_that_was_logged(tracker):
    with tracker.start("extract", "a job", ABOUT, params={"batch_size": 64}) as run:
        run.log_metrics({"trustworthiness": 0.98, "nan": math.nan})
        run.log_metric_series("explained_variance", [0.5, 0.3, 0.2])
        run.log_json({"a": 1}, "config.json")
        run.log_text("é", "note.txt")
    found = logged(tracker, run)
    assert (found.info.status, found.info.run_name) == ("FINISHED", "a job")
    assert found.data.params == {"batch_size": "64"}
    assert found.data.metrics["trustworthiness"] == 0.98
    assert math.isnan(found.data.metrics["nan"])
    assert metric_series(tracker, run.run_id, "explained_variance") == [(0, 0.5), (1, 0.3), (2, 0.2)]
    assert json.loads(artifacts_of(run).fetch("config.json")) == {"a": 1}
    assert artifacts_of(run).fetch("note.txt") == "é".encode()


def test_every_child_carries_the_tags_and_its_parent(tracker):
    with tracker.start("extract", "job", ABOUT) as job:
        about = RunTags(layer="midblock", layer_index=0, sigma=0.5, fingerprint=fingerprint(a=1))
        with tracker.start("layer", "midblock", about, parent=job) as run:
            pass
    tags = logged(tracker, run).data.tags
    expected = RunTags("edm-digits", "digits", fingerprint(a=1), "midblock", 0, 0.5).as_tags("layer")
    assert expected.items() <= tags.items()
    assert tags["mlflow.parentRunId"] == job.run_id
    assert {"mlflow.user", "mlflow.source.name"} <= set(tags)


def test_artifacts_become_visible_at_the_end_and_the_manifest_lists_them(tracker):
    with tracker.start("extract", "job", ABOUT) as run:
        run.log_artifact_bytes(b"x" * 10, "map/points.bin")
        (run.stage("activations.zarr") / "c").mkdir(parents=True)
        (run.stage("activations.zarr") / "c" / "0").write_bytes(b"chunk")
        assert visible(run) == []
    assert visible(run) == ["activations.zarr/c/0", "manifest.json", "map/points.bin"]
    artifacts_of(run).verify()
    assert artifacts_of(run).names() == ("activations.zarr/c/0", "map/points.bin")
    assert not run.staging.parent.exists()


def test_manifest_is_there_before_the_run_is_finished(tracker, monkeypatch):
    client = tracker.connection.call(lambda client: client)
    seen, terminate = [], client.set_terminated

    def watched(run_id, status):
        seen.append((status, visible(run), logged(tracker, run).data.tags.get(Tag.MANIFEST)))
        terminate(run_id, status=status)

    monkeypatch.setattr(client, "set_terminated", watched)
    with tracker.start("extract", "job", ABOUT) as run:
        run.log_text("a", "a.txt")
    assert seen[0][:2] == ("FINISHED", ["a.txt", "manifest.json"])
    assert len(seen[0][2]) == 64


def test_published_artifacts_are_visible_at_once_and_in_the_manifest(tracker):
    with tracker.start("train", "job", ABOUT) as run:
        run.log_text("1", "samples/1.txt")
        run.publish()
        assert visible(run) == ["samples/1.txt"]
        run.log_text("changed", "samples/1.txt")
        run.log_text("2", "samples/2.txt")
    artifacts_of(run).verify()
    assert artifacts_of(run).names() == ("samples/1.txt", "samples/2.txt")


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (LayerNotFoundError("layer 'mid' is unknown"), "FAILED", "layer 'mid' is unknown"),
        (ValueError("two\nlines"), "FAILED", "ValueError: two lines"),
        (RuntimeError("http://me:hunter2@host failed"), "FAILED", "RuntimeError: http://***@host failed"),
        (CancelledError("cancelled after step 3"), "KILLED", "cancelled after step 3"),
        (KeyboardInterrupt(), "KILLED", "interrupted by the user"),
    ],
)
def test_run_that_ends_badly_says_why_and_shows_no_artifact(tracker, error, status, reason):
    run = tracker.start("extract", "job", ABOUT)
    with pytest.raises(type(error)):
        broken(run, error, lambda run: run.log_text("half", "half.txt"))
    found = logged(tracker, run)
    assert (found.info.status, found.data.tags[Tag.ERROR]) == (status, reason)
    assert visible(run) == []


def test_very_long_reason_is_shortened_visibly(tracker):
    run = tracker.start("extract", "job", ABOUT)
    with pytest.raises(ValueError, match="x"):
        broken(run, ValueError("x" * 9000))
    reason = logged(tracker, run).data.tags[Tag.ERROR]
    assert len(reason) == 1000
    assert reason.endswith("…")


def test_run_whose_artifacts_cannot_be_stored_is_failed_and_loses_nothing(tracker):
    run = tracker.start("extract", "job", ABOUT)
    run.log_text("a", "map/a.txt")
    folder = local_folder(run.artifact_uri)
    folder.mkdir(parents=True)
    (folder / "map").write_text("a file where a folder has to be")
    with pytest.raises(TrackingError), run:
        pass
    assert logged(tracker, run).info.status == "FAILED"
    assert (run.staging / "map/a.txt").read_text() == "a"


def test_full_disk_is_a_sentence_that_names_the_file(tracker):
    run = tracker.start("extract", "job", ABOUT)
    run.stage("map.bin").symlink_to("/dev/full")
    with pytest.raises(DiskSpaceError, match=r"map\.bin"), run:
        run.log_artifact_bytes(b"0" * 100_000, "map.bin")
    assert "disk is full" in logged(tracker, run).data.tags[Tag.ERROR]


def test_run_left_by_a_killed_process_is_not_finished_and_can_be_resumed(tracker):
    about = RunTags(model="m", fingerprint=fingerprint(test="killed"))
    run = tracker.start("extract", "job", about, params={"a": 1})
    run.log_text("first", "a.txt")
    run.publish()
    run.log_text("second", "b.txt")
    abandon(run)
    assert tracker.find_finished(about.fingerprint) is None
    assert tracker.find_unfinished(about.fingerprint) == run.run_id
    with tracker.resume(run.run_id) as resumed:
        assert (resumed.staging / "b.txt").read_text() == "second"
        resumed.log_params({"a": 1, "b": 2})
    assert artifacts_of(resumed).names() == ("a.txt", "b.txt")
    artifacts_of(resumed).verify()
    assert tracker.find_finished(about.fingerprint) == run.run_id
    assert tracker.find_unfinished(about.fingerprint) is None


def test_resumed_run_forgets_the_reason_it_failed_with(tracker):
    with pytest.raises(ValueError, match="once"), tracker.start("extract", "job", ABOUT) as run:
        raise ValueError("once")
    with tracker.resume(run.run_id):
        assert logged(tracker, run).info.status == "RUNNING"
    assert Tag.ERROR not in logged(tracker, run).data.tags


def test_unfinished_work_outlives_a_failure_and_not_the_end(tracker):
    run = tracker.start("extract", "job", ABOUT)
    with pytest.raises(ValueError, match="stop"):
        broken(run, ValueError("stop"), lambda run: (run.work / "chunk").write_bytes(b"half"))
    with tracker.resume(run.run_id) as resumed:
        assert (resumed.work / "chunk").read_bytes() == b"half"
    assert not resumed.work.exists()


def test_failure_without_unfinished_work_leaves_no_folder(tracker):
    run = tracker.start("extract", "job", ABOUT)
    with pytest.raises(ValueError, match="stop"):
        broken(run, ValueError("stop"))
    assert not run.work.exists()


def test_second_writer_is_refused_while_the_first_is_at_work(tracker):
    with (
        tracker.start("extract", "job", ABOUT) as run,
        pytest.raises(TrackingError, match=f"{run.run_id} is being written by .*:{os.getpid()}"),
    ):
        Tracker(tracker.profile).resume(run.run_id)
    assert logged(tracker, run).info.status == "FINISHED"


def test_writer_on_another_machine_is_not_disturbed_unless_asked_for(tracker):
    run = tracker.start("extract", "job", ABOUT)
    run.set_tag(Tag.WRITER, "elsewhere:17")
    abandon(run)
    with pytest.raises(TrackingError, match="elsewhere:17, on another machine"):
        tracker.resume(run.run_id)
    with tracker.resume(run.run_id, take_over=True):
        pass
    assert logged(tracker, run).info.status == "FINISHED"


def test_finished_run_never_changes(tracker):
    with tracker.start("extract", "job", ABOUT) as run:
        pass
    with pytest.raises(TrackingError, match="never changes"):
        tracker.resume(run.run_id)
    with pytest.raises(TrackingError, match="has ended"):
        run.log_text("late", "late.txt")


def test_long_param_is_refused_and_makes_no_run(tracker):
    before = len(Catalog(tracker.profile).runs("generation", unfinished=True))
    with pytest.raises(ConfigError, match=r"'prompt' has 6,001 characters.*artifact"):
        tracker.start("generation", "job", ABOUT, params={"prompt": "x" * 6001})
    assert len(Catalog(tracker.profile).runs("generation", unfinished=True)) == before


def test_long_param_and_tag_are_refused_in_a_run_and_what_fits_is_kept_whole(tracker):
    with tracker.start("generation", "job", ABOUT) as run:
        run.log_params({"prompt": "x" * 6000})
        run.set_tag("note", "y" * 8000)
        with pytest.raises(ConfigError, match="'longer' has 6,001 characters"):
            run.log_params({"longer": "x" * 6001})
        with pytest.raises(ConfigError, match="'longer' has 8,001 characters"):
            run.set_tag("longer", "y" * 8001)
    data = logged(tracker, run).data
    assert (len(data.params["prompt"]), len(data.tags["note"])) == (6000, 8000)


def test_param_may_be_repeated_but_not_changed(tracker):
    with tracker.start("extract", "job", ABOUT, params={"a": 1}) as run:
        run.log_params({"a": 1})
        with pytest.raises(ConfigError, match="'a' is logged as '1' and cannot become '2'"):
            run.log_params({"a": 2})


def test_more_than_one_request_can_take_is_logged_whole(tracker):
    with tracker.start("extract", "job", ABOUT) as run:
        run.log_params({f"p{i}": i for i in range(150)})
        run.log_metrics({f"m{i}": i for i in range(1100)})
    data = logged(tracker, run).data
    assert (len(data.params), len(data.metrics)) == (150, 1100)


def test_run_opened_by_mlflow_becomes_the_jobs_parent(tracker, monkeypatch):
    opened = tracker.connection.call(lambda client: client.create_run("0", tags={"mlflow.source.type": "PROJECT"}))
    run_id = opened.info.run_id
    tracker.connection.call(lambda client: client.log_param(run_id, "layers", "all"))
    monkeypatch.setenv("MLFLOW_RUN_ID", run_id)
    params = {"layers": "encoder_block_0,midblock", "model": "edm-digits"}
    with tracker.start("extract", "our name", ABOUT, params=params) as job:
        assert job.run_id == run_id
        with tracker.start("layer", "l", RunTags(layer="l", sigma=1.0), parent=job) as child:
            assert child.run_id != run_id
        with tracker.start("generation", "second job of the process", ABOUT) as second:
            assert second.run_id != run_id
    found = logged(tracker, run_id)
    assert (found.info.run_name, found.info.status) == ("our name", "FINISHED")
    assert ABOUT.as_tags("extract").items() <= found.data.tags.items()
    assert found.data.params == {
        "layers": "all",
        "resolved.layers": "encoder_block_0,midblock",
        "model": "edm-digits",
    }
    assert logged(tracker, child).info.experiment_id == "0"


def test_reuse_ends_the_run_that_mlflow_opened(tracker, monkeypatch):
    with tracker.start("extract", "first", ABOUT) as first:
        pass
    tracker.mark_reused(first.run_id)  # without such a run there is nothing to do
    opened = tracker.connection.call(lambda client: client.create_run("0")).info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", opened)
    tracker.mark_reused(first.run_id)
    found = logged(tracker, opened)
    assert (found.info.status, found.data.tags[Tag.REUSED_RUN]) == ("FINISHED", first.run_id)
    assert opened not in [record.run_id for record in Catalog(tracker.profile).extractions(unfinished=True)]


def test_run_id_in_the_environment_that_does_not_exist_is_named(tracker, monkeypatch):
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)
    with pytest.raises(RunNotFoundError, match="0" * 32):
        tracker.start("extract", "job", ABOUT)


def test_experiment_in_the_environment_wins_over_the_profile(tracker, store, monkeypatch):
    by_profile = tracker.experiment_id
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "by-name")
    by_name = Tracker(store).experiment_id
    assert by_name != by_profile
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "0")
    assert Tracker(store).experiment_id == "0"
    assert Tracker(store, "by-name").experiment_id == by_name
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "777")
    with pytest.raises(RunNotFoundError, match="777"):
        Tracker(store).experiment_id  # noqa: B018


def test_deleted_experiment_is_a_sentence(tracker, store):
    gone = Tracker(store, "gone").experiment_id
    tracker.connection.call(lambda client: client.delete_experiment(gone))
    with pytest.raises(TrackingError, match="'gone' is deleted; restore it"):
        Tracker(store, "gone").start("extract", "job", ABOUT)


def test_reuse_finds_the_newest_finished_run_of_the_same_fingerprint(tracker):
    digest = fingerprint(test="newest")
    about = RunTags(model="m", fingerprint=digest)
    assert tracker.find_finished(digest) is None
    with tracker.start("extract", "old", about):
        pass
    with tracker.start("extract", "new", about) as newer:
        pass
    with pytest.raises(ValueError, match="x"), tracker.start("extract", "failed", about):
        raise ValueError("x")
    assert tracker.find_finished(digest) == newer.run_id
    assert tracker.find_finished(fingerprint(test="other")) is None
    with pytest.raises(ConfigError, match="not a fingerprint"):
        tracker.find_finished("x' or 'a' = 'a")


def test_picture_is_logged_under_its_key_for_the_image_grid(tracker):
    with tracker.start("extract", "job", ABOUT) as run:
        run.log_image("map", png(), step=0)
        run.log_artifact_bytes(png(), "map.png")
    names = visible(run)
    assert any(name.startswith("images/map+step+0+") and name.endswith(".png") for name in names)
    assert any(name.endswith("+compressed.webp") for name in names)
    assert logged(tracker, run).data.tags["mlflow.loggedImages"] == "True"
    assert artifacts_of(run).names() == ("map.png",)


def test_sample_set_is_logged_as_a_dataset(tracker):
    class Samples:
        digest = "d" * 64

        def __len__(self):
            return 1797

    with tracker.start("extract", "job", ABOUT) as run:
        run.log_input(Samples(), name="digits", source="digits")
    (given,) = logged(tracker, run).inputs.dataset_inputs
    assert (given.dataset.name, given.dataset.digest) == ("digits", "d" * 36)
    assert json.loads(given.dataset.source)["digest"] == "d" * 64
    assert json.loads(given.dataset.profile) == {"num_rows": 1797}
    assert [(tag.key, tag.value) for tag in given.tags] == [("mlflow.data.context", "extraction")]


def test_tables_and_files_are_logged_as_given(tracker, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.txt").write_text("a")
    table = {"layer": ["a", "b"], "knn": [0.5, 0.9]}
    with tracker.start("extract", "job", ABOUT) as run:
        run.log_table(table, "layers.csv")
        run.log_table(pd.DataFrame(table), "layers.parquet")
        run.log_artifact_file(tmp_path / "folder", "folder")
        run.log_artifact_file(tmp_path / "folder" / "a.txt")
        with pytest.raises(ConfigError, match=r"\.csv or \.parquet"):
            run.log_table(table, "layers.xlsx")
        with pytest.raises(ValueError, match="JSON"):
            run.log_json({"a": math.nan}, "bad.json")
    assert artifacts_of(run).fetch("layers.csv") == b"layer,knn\na,0.5\nb,0.9\n"
    assert pd.read_parquet(artifacts_of(run).path("layers.parquet")).to_dict("list") == table
    assert artifacts_of(run).names() == ("a.txt", "folder/a.txt", "layers.csv", "layers.parquet")


@pytest.mark.parametrize("name", ["../x", "/abs", "a\\b", "a\0b"])
def test_artifact_name_that_leads_out_is_refused_on_writing(tracker, name):
    with tracker.start("extract", "job", ABOUT) as run:
        for write in (run.stage, lambda n: run.log_text("x", n), lambda n: run.log_artifact_file(__file__, n)):
            with pytest.raises(ConfigError, match="not allowed"):
                write(name)


def test_runs_of_several_threads_do_not_mix(tracker):
    failures = []

    def work(number, job):
        about = RunTags(layer=f"l{number}", sigma=1.0)
        with tracker.start("layer", f"l{number}", about, parent=job, params={"number": number}) as run:
            run.log_metrics({"number": number})
            run.log_text(str(number), "number.txt")
        found = logged(tracker, run)
        if (found.data.params["number"], artifacts_of(run).fetch("number.txt")) != (str(number), str(number).encode()):
            failures.append(number)

    with tracker.start("extract", "job", ABOUT) as job:
        threads = [threading.Thread(target=work, args=(number, job)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    layers = Catalog(tracker.profile).layers(job.run_id)
    assert failures == []
    assert sorted(layer.metrics["number"] for layer in layers) == list(range(6))


def test_tracking_touches_neither_the_active_run_nor_the_environment(tracker, monkeypatch):
    import mlflow

    for name in ("MLFLOW_HTTP_REQUEST_TIMEOUT", "MLFLOW_HTTP_REQUEST_MAX_RETRIES"):
        monkeypatch.delenv(name, raising=False)
    before = dict(os.environ)
    with tracker.start("extract", "job", ABOUT) as run:
        assert mlflow.active_run() is None
        run.log_metrics({"a": 1.0})
    assert dict(os.environ) == before


def test_system_metrics_without_psutil_are_a_warning(tracker, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "mlflow.system_metrics.system_metrics_monitor", None)
    with tracker.start("train", "job", ABOUT, system_metrics=True) as run:
        pass
    assert "install psutil" in caplog.text
    assert logged(tracker, run).info.status == "FINISHED"


def test_failure_to_say_why_does_not_hide_why(tracker, monkeypatch, caplog):
    def down(*args, **kwargs):
        raise TrackingError("server gone")

    run = tracker.start("extract", "job", ABOUT)
    with monkeypatch.context() as patch:
        patch.setattr(tracker.connection, "call", down)
        with pytest.raises(ValueError, match="the real cause"):
            broken(run, ValueError("the real cause"))
    assert "stays RUNNING: server gone" in caplog.text
    assert logged(tracker, run).info.status == "RUNNING"


def test_manifest_tag_is_the_digest_of_the_manifest(tracker):
    with tracker.start("extract", "job", ABOUT) as run:
        run.log_text("a", "a.txt")
    text = artifacts_of(run).fetch("manifest.json")
    assert logged(tracker, run).data.tags[Tag.MANIFEST] == hashlib.sha256(text).hexdigest()
    assert Manifest.from_json(text).owner == run.run_id
    assert run.kind is Kind.EXTRACT
