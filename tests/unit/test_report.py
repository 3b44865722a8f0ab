"""The report: one file that loads nothing, and in which no text is more than text."""

import base64
from html.parser import HTMLParser

import numpy as np
import pytest

from diffviews.data.pictures import encode_png
from diffviews.pipelines.report import Report, ReportedGeneration, ReportedSample, report_html

PICTURE = encode_png(np.zeros((8, 8, 3), np.uint8))
HOSTILE = '<script>alert(1)</script>"onload=alert(2) x=\'</td>'


class Reader(HTMLParser):
    """Collects the elements and the text of a page."""

    def __init__(self, data):
        super().__init__()
        self.elements, self.text = [], ""
        self.feed(data.decode())

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def of(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def report(text="plain", **more):
    return Report(
        title=text,
        subtitle=text,
        map_png=PICTURE,
        map_text=text,
        run={"Layer": text},
        parameters={text: text},
        measures={text: 0.25},
        samples=[
            ReportedSample(text, "selected", text, text + "!", PICTURE),
            ReportedSample("b", "suggested", "c", "", PICTURE, 1.5),
        ],
        generations=[
            ReportedGeneration(text, text, (PICTURE, PICTURE), (PICTURE,), "http://localhost/run", f"run {text}")
        ],
        links={text: "http://localhost/?a=1&b=2"},
        **more,
    )


def test_report_tells_all_it_was_given():
    page = Reader(report_html(report()))
    for word in ("plain", "plain!", "selected", "suggested", "1.5", "0.25", "Same noise, no mask", "run plain"):
        assert word in page.text
    sources = [image["src"] for image in page.of("img")]
    assert len(sources) == 6  # the map, two samples, two images and a baseline
    assert all(base64.b64decode(s.removeprefix("data:image/png;base64,")) == PICTURE for s in sources)
    assert {"href": "http://localhost/?a=1&b=2", "rel": "noopener noreferrer"} in page.of("a")


def test_report_loads_nothing_and_runs_nothing():
    page = Reader(report_html(report(HOSTILE)))
    policy = page.of("meta")[1]
    assert policy["http-equiv"] == "Content-Security-Policy"
    assert "default-src 'none'" in policy["content"]
    assert not page.of("script")
    assert not page.of("iframe")
    assert [link["href"] for link in page.of("link")] == ["data:,"]
    assert {image["src"].partition(",")[0] for image in page.of("img")} == {"data:image/png;base64"}


def test_report_shows_hostile_text_as_text():
    page = Reader(report_html(report(HOSTILE)))
    allowed = {"src", "alt", "class", "href", "rel", "charset", "http-equiv", "content", "name", "lang"}
    assert {name for _, attributes in page.elements for name in attributes} <= allowed
    assert page.text.count("<script>alert(1)</script>") >= 8
    assert page.of("img")[0]["alt"] == HOSTILE


@pytest.mark.parametrize("address", ["javascript:alert(1)", "data:text/html,x", "?run=1"])
def test_only_web_addresses_become_links(address):
    made = Report("t", "s", PICTURE, "m", {}, links={"here": address})
    page = Reader(report_html(made))
    assert not page.of("a")
    assert address in page.text


def test_report_without_samples_says_so():
    page = Reader(report_html(Report("t", "s", PICTURE, "m", {})))
    assert "No sample is selected." in page.text
    assert "Generations" not in page.text
