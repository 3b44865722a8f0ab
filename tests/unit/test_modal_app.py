"""The Modal deployment's definition; only where Modal is installed."""

import pytest

pytest.importorskip("modal")


def test_definition_loads_with_one_gpu_function():
    from diffviews.serving import modal_app

    assert (modal_app.app.name, modal_app.GPU, modal_app.IDLE_SECONDS) == ("diffviews-worker", "T4", 120)
    assert type(modal_app.worker).__module__.startswith("modal")
