"""Tables of documents: what stands between their marks is made again, and nothing else is touched."""

import pandas as pd
import pytest

from experiments import documents

TEXT = "Before 1.\n\n<!-- table some:2 extract --layers a,b -->\nold\nrows\n<!-- end -->\nAfter.\n"


def test_only_what_stands_between_the_marks_is_made_again(monkeypatch):
    asked = []
    monkeypatch.setattr(documents, "_run", lambda command: asked.append(command) or "run-7")
    monkeypatch.setitem(documents.TABLES, "some", lambda run, sigma, workspace: f"new of {run} at {sigma}")
    made = documents.rewritten(TEXT, None)
    assert made == TEXT.replace("old\nrows", "new of run-7 at 2")
    assert asked == ["extract --layers a,b"]
    assert documents.rewritten(made, None) == made
    with pytest.raises(KeyError, match="other"):
        documents.rewritten(TEXT.replace("some", "other"), None)


def test_numbers_have_their_interval_and_missing_ones_are_empty():
    row = pd.Series({"gain": -0.0714, "gain_low": -0.1, "gain_high": 0.02, "p": 0.0004, "none": float("nan")})
    assert documents._between(row, "gain", form="+.3f") == "−0.071 [−0.100, +0.020]"
    assert (documents._p(row, "p"), documents._p(row, "none"), documents._number(row, "none")) == ("< 0.001", "", "")
