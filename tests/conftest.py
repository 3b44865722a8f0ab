"""What all tests share: MLflow's migrations, three seconds of a core for every new database, run once a process."""

import shutil
import sqlite3
from contextlib import closing

import pytest

from diffviews.tracking import profiles


@pytest.fixture(scope="session", autouse=True)
def migrated_once(tmp_path_factory):
    """New databases of this process are copies of one that MLflow migrated; processes that it starts migrate theirs."""
    whole, migrate = tmp_path_factory.mktemp("schema") / "mlflow.db", profiles._migrate

    def copy(path, artifact_root):
        if path.exists():
            migrate(path, artifact_root)
            return
        if not whole.exists():
            migrate(whole, "")
        shutil.copyfile(whole, path)
        with closing(sqlite3.connect(path)) as database, database:
            database.execute("UPDATE experiments SET artifact_location = ?", (f"{artifact_root}/0",))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(profiles, "_migrate", copy)
        yield
