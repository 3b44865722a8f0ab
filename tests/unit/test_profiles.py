"""Profiles: which is chosen, what wins, and that none holds a secret."""

import contextlib
import os
import sqlite3
import threading

import pytest

from diffviews.errors import ConfigError, DiskSpaceError, RunNotFoundError, TrackingError
from diffviews.tracking.connection import Connection, ScopedDefaults, absolute_uri, check_run_id, redact, sqlite_path
from diffviews.tracking.profiles import Profile, activate, load_profile, profile_folder, profile_names, profile_of

VARIABLES = (
    "MLFLOW_TRACKING_URI",
    "DIFFVIEWS_PROFILE",
    "DIFFVIEWS_TRACKING_SERVER",
    "MLFLOW_TRACKING_TOKEN",
    "DIFFVIEWS_TRACKING_TOKEN",
)


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def test_default_profile_is_local_and_absolute_from_the_current_folder(tmp_path):
    profile = load_profile()
    assert profile.name == "local"
    assert profile.tracking_uri == f"sqlite:///{tmp_path}/mlflow.db"
    assert profile.artifact_root == str(tmp_path / "mlartifacts")
    assert profile.experiment == "diffviews"


def test_profile_is_chosen_by_the_environment_and_an_argument_wins(monkeypatch):
    monkeypatch.setenv("DIFFVIEWS_PROFILE", "server")
    assert load_profile().tracking_uri == "http://127.0.0.1:5000"
    assert load_profile("local").name == "local"


def test_server_address_comes_from_the_environment(monkeypatch):
    monkeypatch.setenv("DIFFVIEWS_TRACKING_SERVER", "https://mlflow.example.org/")
    profile = load_profile("server")
    assert profile.tracking_uri == "https://mlflow.example.org"
    assert profile.artifact_root is None


def test_mlflow_tracking_uri_wins_over_every_profile(monkeypatch, tmp_path):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://10.0.0.1:5000")
    assert load_profile("local").tracking_uri == "http://10.0.0.1:5000"
    assert load_profile("local").artifact_root is None
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///elsewhere/m.db")
    assert load_profile("server").artifact_root == str(tmp_path / "elsewhere" / "mlartifacts")


def test_mlflow_tracking_uri_that_is_the_profiles_own_keeps_its_artifact_root(monkeypatch, tmp_path):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    assert load_profile().artifact_root == str(tmp_path / "mlartifacts")


def test_unknown_profile_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'server'"):
        load_profile("servr")


def test_profile_may_be_a_file(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('tracking_uri = "sqlite:///x.db"\nartifact_root = "art"\nexperiment = "e"\n')
    profile = load_profile(str(path))
    assert (profile.experiment, profile.artifact_root) == ("e", str(tmp_path / "art"))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("tracking_uri = ", "TOML"),
        ('experiment = "x"', "lacks tracking_uri"),
        ('tracking_url = "http://a"', "did you mean 'tracking_uri'"),
        ("tracking_uri = 3", "must be text"),
        ('tracking_uri = "http://me:hunter2@host"', "password"),
        ('tracking_uri = "postgresql://me:hunter2@host/db"', "password"),
        ('tracking_uri = "${NOT_SET_ANYWHERE}"', "NOT_SET_ANYWHERE"),
        ('tracking_uri = "http://a"\n[environment]\nMLFLOW_TRACKING_TOKEN = "hunter2"', "must name"),
        ('tracking_uri = "http://a"\nexperiment = " "', "needs a name"),
        ('tracking_uri = "./mlruns"', "old folder store"),
        ('tracking_uri = "file:///tmp/mlruns"', "old folder store"),
        ('tracking_uri = "sqlite:mlflow.db"', "sqlite:///"),
    ],
)
def test_malformed_profile_is_refused_and_no_secret_is_repeated(tmp_path, text, reason):
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=reason) as caught:
        load_profile(str(path))
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("name", profile_names())
def test_shipped_profile_is_valid_and_holds_no_value_of_a_secret(name, monkeypatch):
    profile = load_profile(name)
    text = (profile_folder() / f"{name}.toml").read_text()
    for target, source in profile.environment.items():
        assert source.isupper()
        monkeypatch.setenv(source, f"secret-of-{target}")
    assert load_profile(name) == profile  # a secret never becomes part of it
    assert "secret" not in repr(load_profile(name))
    for allowed in ("sqlite:///", "http://127.0.0.1", "postgresql://…", "s3://${R2_BUCKET_NAME", "https://${R2_ACCOUNT"):
        text = text.replace(allowed, "")
    assert "://" not in text


def test_activate_maps_secrets_by_variable_name_and_never_overwrites(monkeypatch):
    profile = Profile("p", "http://a", environment={"MLFLOW_TRACKING_TOKEN": "DIFFVIEWS_TRACKING_TOKEN"})
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "")  # registers it for removal after the test
    monkeypatch.delenv("MLFLOW_TRACKING_TOKEN")
    activate(profile)
    assert "MLFLOW_TRACKING_TOKEN" not in os.environ
    monkeypatch.setenv("DIFFVIEWS_TRACKING_TOKEN", "t1")
    activate(profile)
    monkeypatch.setenv("DIFFVIEWS_TRACKING_TOKEN", "t2")
    activate(profile)
    assert os.environ["MLFLOW_TRACKING_TOKEN"] == "t1"


def test_r2_profile_sets_what_boto3_needs_from_r2s_own_variables(monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION", "MLFLOW_S3_ENDPOINT_URL",
                 "AWS_REQUEST_CHECKSUM_CALCULATION", "AWS_RESPONSE_CHECKSUM_VALIDATION", "AWS_RETRY_MODE",
                 "AWS_MAX_ATTEMPTS"):  # fmt: skip
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("R2_ACCESS_KEY_ID", "k")
    monkeypatch.setenv("R2_SECRET_ACCESS_KEY", "s")
    monkeypatch.setenv("R2_BUCKET_NAME", "ours")
    monkeypatch.delenv("R2_ACCOUNT_ID", raising=False)
    profile = load_profile("r2")
    assert profile.artifact_root == "s3://ours/mlflow"
    with pytest.raises(ConfigError, match="R2_ACCOUNT_ID"):
        activate(profile)
    monkeypatch.setenv("R2_ACCOUNT_ID", "acc")
    activate(profile)
    assert os.environ["MLFLOW_S3_ENDPOINT_URL"] == "https://acc.r2.cloudflarestorage.com"
    assert os.environ["AWS_ACCESS_KEY_ID"] == "k"
    assert os.environ["AWS_REQUEST_CHECKSUM_CALCULATION"] == "when_required"
    assert os.environ["AWS_DEFAULT_REGION"] == "auto"


def test_bucket_stays_when_another_address_tracks(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://10.0.0.1:5000")
    assert load_profile("r2").artifact_root == "s3://diffviews/mlflow"


def test_r2_address_is_written_so_that_the_buckets_location_is_never_asked():
    profile = Profile("p", "http://a", "r2://ours@acc.r2.cloudflarestorage.com/runs")
    assert profile.artifact_root == "s3://ours/runs"
    assert profile.settings["MLFLOW_S3_ENDPOINT_URL"] == "https://acc.r2.cloudflarestorage.com"
    assert profile.environment["AWS_SECRET_ACCESS_KEY"] == "R2_SECRET_ACCESS_KEY"


@pytest.mark.parametrize("line", ['AWS_SECRET_ACCESS_KEY = "hunter2"', "AWS_MAX_ATTEMPTS = 3"])
def test_setting_that_is_a_secret_or_no_text_is_refused(tmp_path, line):
    path = tmp_path / "bad.toml"
    path.write_text(f'tracking_uri = "http://a"\n[settings]\n{line}\n')
    with pytest.raises(ConfigError, match="is no setting") as caught:
        load_profile(str(path))
    assert "hunter2" not in str(caught.value)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A profile whose store was made beside what a process left that died in the migration."""
    root = tmp_path_factory.mktemp("prepared")
    with contextlib.closing(sqlite3.connect(root / "m.db.unfinished")) as half:
        half.execute("CREATE TABLE experiments (experiment_id INTEGER)")
    return activate(profile_of(f"sqlite:///{root}/m.db"))


def test_activate_makes_the_schema_in_write_ahead_mode_beside_its_artifacts(prepared):
    with contextlib.closing(sqlite3.connect(sqlite_path(prepared.tracking_uri))) as database:
        assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        (location,) = database.execute("SELECT artifact_location FROM experiments").fetchone()
    assert location == f"{prepared.artifact_root}/0"


def test_activate_makes_the_schema_once(prepared):
    before = sqlite_path(prepared.tracking_uri).stat()
    activate(prepared)
    after = sqlite_path(prepared.tracking_uri).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_activate_starts_over_when_a_process_died_in_the_migration(prepared):
    assert Connection(prepared.tracking_uri).call(lambda client: client.search_experiments())
    assert not list(sqlite_path(prepared.tracking_uri).parent.glob("*.unfinished*"))


def test_file_that_is_no_database_is_named(tmp_path):
    (tmp_path / "bad.db").write_bytes(b"this is not a database at all, not even close" * 50)
    with pytest.raises(TrackingError, match=r"bad\.db.*move it away"):
        activate(profile_of("sqlite:///bad.db"))
    assert (tmp_path / "bad.db").read_bytes().startswith(b"this is not")


def test_folder_in_the_way_of_the_database_is_named(tmp_path):
    (tmp_path / "store").write_text("a file where the folder should be")
    with pytest.raises(TrackingError, match="store"):
        activate(profile_of("sqlite:///store/mlflow.db"))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://me:hunter2@host/db", "postgresql://***@host/db"),
        ("see http://a:b@c/x and https://d/e", "see http://***@c/x and https://d/e"),
        ("sqlite:////tmp/m.db", "sqlite:////tmp/m.db"),
    ],
)
def test_redact_hides_credentials_only(text, shown):
    assert redact(text) == shown


def test_absolute_uri_refuses_without_repeating_a_password():
    with pytest.raises(ConfigError) as caught:
        absolute_uri("ftp://me:hunter2@host")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("run_id", ["", "../x", "a' or 'b' = 'b", "a/b", "x" * 65, "-x", "a\nb"])
def test_what_is_no_run_id_is_refused(run_id):
    with pytest.raises(RunNotFoundError):
        check_run_id(run_id)


def test_scoped_defaults_nest_and_leave_the_environment_as_it_was(monkeypatch):
    monkeypatch.setenv("DV_USER", "7")
    monkeypatch.delenv("DV_FREE", raising=False)
    scoped = ScopedDefaults()
    with scoped({"DV_USER": 1, "DV_FREE": 9}):
        assert (os.environ["DV_USER"], os.environ["DV_FREE"]) == ("7", "9")
        with scoped({"DV_FREE": 120}):
            assert os.environ["DV_FREE"] == "120"
        assert os.environ["DV_FREE"] == "9"
    assert "DV_FREE" not in os.environ
    assert os.environ["DV_USER"] == "7"


def test_scoped_defaults_hold_while_any_thread_is_inside(monkeypatch):
    monkeypatch.delenv("DV_FREE", raising=False)
    scoped, entered, leave = ScopedDefaults(), threading.Event(), threading.Event()

    def stay():
        with scoped({"DV_FREE": 5}):
            entered.set()
            leave.wait(5)

    thread = threading.Thread(target=stay)
    thread.start()
    assert entered.wait(5)
    with scoped({"DV_FREE": 3}):
        pass
    assert os.environ["DV_FREE"] == "5"
    leave.set()
    thread.join()
    assert "DV_FREE" not in os.environ


def failing(times, message):
    """Return an operation that fails with an MLflow error `times` times, and the list of its calls."""
    from mlflow.exceptions import MlflowException

    calls = []

    def operation(client):
        calls.append(client)
        if len(calls) <= times:
            raise MlflowException(message)
        return "done"

    return operation, calls


@pytest.mark.parametrize(
    "message",
    [
        "(sqlite3.OperationalError) database is locked",
        "... too many 503 error responses",
        '(psycopg.errors.UniqueViolation) duplicate key value violates unique constraint "datasets_pk"',
    ],
)
def test_request_that_changed_nothing_is_tried_again(prepared, message):
    operation, calls = failing(2, message)
    assert Connection(prepared.tracking_uri).call(operation) == "done"
    assert len(calls) == 3


@pytest.mark.parametrize("message", ["Read timed out. (read timeout=12)", "Invalid value"])
def test_request_that_may_have_changed_something_is_not_repeated(prepared, message):
    operation, calls = failing(1, message)
    with pytest.raises(TrackingError):
        Connection(prepared.tracking_uri).call(operation)
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("message", "remedy"),
    [
        ("Detected out-of-date database schema (found version a)", "mlflow db upgrade"),
        ("(sqlite3.OperationalError) attempt to write a readonly database", r"m\.db is a readable MLflow database"),
    ],
)
def test_trouble_with_the_database_comes_with_its_remedy(prepared, message, remedy):
    with pytest.raises(TrackingError, match=remedy):
        Connection(prepared.tracking_uri).call(failing(1, message)[0])


def test_full_disk_is_a_disk_space_error(prepared):
    with pytest.raises(DiskSpaceError, match="free some space"):
        Connection(prepared.tracking_uri).call(failing(1, "(sqlite3.OperationalError) database or disk is full")[0])
