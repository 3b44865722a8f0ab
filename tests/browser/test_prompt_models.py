"""A text model in Chromium: prompts are read, searched and coloured by, and one is edited and generated from."""

import re

import pytest
from explorer import Explorer, keep, query
from playwright.sync_api import expect

from tests.dashboard_server import ROOT, served

SUBJECTS, COLOURS = ("cat", "dog"), ("red", "green")
TAILS = ("photo", "of two", "blurry", "a photo of two", "photo of a photo")
STEPS = 8


@pytest.fixture(scope="module")
def prompts(tmp_path_factory, clean_environment):
    """Address of a store that holds an extraction of a tiny random Stable Diffusion from prompts."""
    folder = tmp_path_factory.mktemp("prompts")
    rows = [f"a {colour} {subject} {tail},{subject}s" for subject in SUBJECTS for colour in COLOURS for tail in TAILS]
    (folder / "prompts.csv").write_text("\n".join(["prompt,category", *rows]) + "\n")
    address = f"sqlite:///{folder}/mlflow.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", address)
        patch.chdir(folder)
        patch.syspath_prepend(str(ROOT / "tests"))
        from diffusion_folders import draw_sd_pipeline, saved

        from diffviews.processing.map_parameters import MapParameters
        from tests.jobs import extract

        extract(
            "sd-v1.5",
            str(saved(draw_sd_pipeline(3), folder / "tiny-sd")),
            f"prompts:{folder}/prompts.csv",
            ("mid_block",),
            sigmas=(2.0,),
            maps=MapParameters(n_neighbors=5),
            device="cpu",
        )
        yield address


@pytest.fixture(scope="module")
def prompt_map(prompts):
    """The map that a first visit opens, read by the test itself."""
    from diffviews.pipelines.workspace import open_workspace
    from panel_app.data import DataStore
    from panel_app.library import LoggedRuns
    from panel_app.session import Session
    from panel_app.state import Address

    session = Session(DataStore(LoggedRuns(open_workspace())))
    session.start(Address())
    assert session.notice is None, session.notice
    return session.map


@pytest.fixture(scope="module")
def prompt_url(prompts):
    with served(prompts) as (_, address):
        yield address


@pytest.mark.slow
def test_prompts_are_read_searched_and_generated_from(new_page, prompt_url, prompt_map):
    explorer = Explorer(new_page(), prompt_url, prompt_map)
    page, total = explorer.open().page, len(prompt_map.table)
    expect(page.get_by_text(f"{total} of {total} shown")).to_be_visible()
    chosen = apart(explorer)
    prompt = prompt_map.prompt_of(chosen)

    # The card tells the prompt and its category.
    explorer.hover(chosen)
    expect(page.get_by_text(prompt, exact=True).first).to_be_visible()
    keep(explorer, "prompts-hover")
    explorer.click(chosen)
    expect(page.get_by_text("Selected", exact=True)).to_be_visible()
    explorer.button("Suggest nearest").click()
    expect(page.get_by_text("5 suggested, 0 chosen")).to_be_visible()
    explorer.away()

    # All words must occur, and the count is true.
    search = page.get_by_role("textbox", name="Search prompts and names")
    search.fill("Red dog")
    search.press("Enter")
    expect(page.get_by_text(f"5 of {total} shown")).to_be_visible()
    explorer.wait(lambda: query(explorer).get("words") == "Red dog")
    keep(explorer, "prompts-search")
    page.reload()
    expect(page.get_by_text(f"5 of {total} shown")).to_be_visible()
    explorer.button("Show all again").click()
    expect(page.get_by_text(f"{total} of {total} shown")).to_be_visible()

    # Clusters of prompts colour the map; a click on one shows its prompts alone.
    explorer.choose("Colour by", "Prompt cluster")
    name = prompt_map.categories_of("prompt_cluster")[0]
    count = int((prompt_map.table["prompt_cluster"] == name).sum())
    page.get_by_title(f"Highlight {name}; click again").click()
    page.get_by_title(f"Show only {name}").click()
    expect(page.get_by_text(f"{count} of {total} shown")).to_be_visible()
    keep(explorer, "prompts-cluster")
    page.get_by_title("Show all", exact=True).click()

    # The selected sample's prompt, edited, gives images.
    explorer.tab("Generate")
    field = page.get_by_role("textbox", name="Prompt", exact=True)
    expect(field).to_have_value(prompt)
    field.fill(f"two {prompt}")
    page.get_by_role("textbox", name="Negative prompt").fill("blurry")
    page.get_by_role("button", name="Sampling", exact=True).click()
    keep(explorer, "prompts-form")
    steps = page.get_by_role("textbox", name=re.compile("^Steps"))
    expect(steps).to_have_value("50")
    steps.fill(str(STEPS))
    steps.press("Tab")
    explorer.button("Generate").click()
    expect(page.get_by_text("Baseline, no mask")).to_be_visible()
    expect(page.get_by_text(f"“two {prompt}”").first).to_be_visible()
    made = explorer.picture(page.get_by_role("img", name=re.compile("^Generated")).first)
    assert made.std() > 5
    explorer.settle()
    keep(explorer, "prompts-result")


def apart(explorer):
    """A sample that no other overlaps on the screen."""
    spots = {s: explorer.place(s) for s in explorer.map.row_of}
    gaps = {
        s: min((abs(x - a) ** 2 + abs(y - b) ** 2) for o, (a, b) in spots.items() if o != s)
        for s, (x, y) in spots.items()
    }
    return max(gaps, key=gaps.get)
