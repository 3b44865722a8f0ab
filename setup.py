"""In a wheel the profiles of `mlruns_config/` travel inside `diffviews`; all else is said in pyproject.toml."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithProfiles(build_py):
    """Copies the profiles beside the modules; an editable installation reads them where they are."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            folder = Path(self.build_lib, "diffviews", "mlruns_config")
            folder.mkdir(parents=True, exist_ok=True)
            for profile in Path("mlruns_config").glob("*.toml"):
                self.copy_file(str(profile), str(folder))


setup(cmdclass={"build_py": BuildWithProfiles})
