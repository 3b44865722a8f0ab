"""Prompt files: what they give, and what is said of those that cannot be read."""

import json
from pathlib import Path

import pytest

from diffviews.data.prompts import Prompt, PromptSet, read_prompts
from diffviews.errors import SampleSetError


def written(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_text_file_gives_a_prompt_a_line(tmp_path: Path) -> None:
    text = "# birds\n\n  a heron, wading \r\na heron, wading\n#\nein Häher\n"
    prompts = read_prompts(written(tmp_path, "p.txt", text))
    assert [prompt.prompt for prompt in prompts] == ["a heron, wading", "a heron, wading", "ein Häher"]
    assert prompts.prompt_ids == ("prompt-0000", "prompt-0001", "prompt-0002")
    assert prompts.prompts[0] == Prompt("prompt-0000", "a heron, wading", "", None, None)
    assert prompts.class_labels == (None, None, None)


def test_line_separators_within_a_prompt_do_not_split_it(tmp_path: Path) -> None:
    assert len(read_prompts(written(tmp_path, "p.txt", "one\u2028line\x0bonly\n"))) == 1


def test_csv_file_gives_all_columns(tmp_path: Path) -> None:
    text = 'category, Prompt ,negative_prompt,seed,name\nbird,"a heron, ""wading""",blurry,7,heron\n\n,a stone,,,\n'
    prompts = read_prompts(written(tmp_path, "p.csv", text))
    assert prompts.prompts == (
        Prompt("heron", 'a heron, "wading"', "blurry", "bird", 7),
        Prompt("prompt-0001", "a stone", "", None, None),
    )


def test_cell_of_several_lines_is_one_prompt(tmp_path: Path) -> None:
    prompts = read_prompts(written(tmp_path, "p.csv", 'prompt,seed\n"a heron\nin the rain",3\nb,4\n'))
    assert [(prompt.prompt, prompt.seed) for prompt in prompts] == [("a heron\nin the rain", 3), ("b", 4)]


def test_short_rows_and_a_byte_order_mark_are_read(tmp_path: Path) -> None:
    prompts = read_prompts(written(tmp_path, "p.CSV", b"\xef\xbb\xbfprompt,category\na heron\n"))
    assert (prompts.prompts[0].prompt, prompts.prompts[0].category) == ("a heron", None)
    assert read_prompts(written(tmp_path, "p.txt", b"\xef\xbb\xbfa heron")).prompts[0].prompt == "a heron"


def test_ids_stay_when_rows_are_added(tmp_path: Path) -> None:
    before = read_prompts(written(tmp_path, "p.txt", "\n".join(f"p{row}" for row in range(9_990))))
    after = read_prompts(written(tmp_path, "p.txt", "\n".join(f"p{row}" for row in range(10_050))))
    assert after.prompt_ids[:9_990] == before.prompt_ids
    assert after.prompt_ids[-1] == "prompt-10049"


def test_categories_are_classes_sorted_by_name(tmp_path: Path) -> None:
    text = "prompt,category\na,zebra\nb,\nc,ant\nd,zebra\n"
    prompts = read_prompts(written(tmp_path, "p.csv", text))
    assert prompts.categories == ("ant", "zebra")
    assert prompts.class_labels == (1, None, 0, 1)
    assert prompts.class_order == "categories"


def test_max_prompts_is_even_over_categories_and_keeps_ids_and_labels(tmp_path: Path) -> None:
    rows = [f"p{row},{'abc'[min(row // 5, 2)]}" for row in range(12)]
    path = written(tmp_path, "p.csv", "prompt,category\n" + "\n".join(rows))
    few = read_prompts(path, max_prompts=3)
    assert few.prompt_ids == ("prompt-0000", "prompt-0005", "prompt-0010")
    assert few.class_labels == (0, 1, 2)
    assert read_prompts(path, max_prompts=1).categories[2] == "c"
    with pytest.raises(SampleSetError, match="at least 1"):
        read_prompts(path, max_prompts=0)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("p.csv", "promt,seed\na,1\n", r"no column prompt .*did you mean 'promt'"),
        ("p.csv", "prompt,prompt\na,b\n", "column prompt more than once"),
        ("p.csv", "prompt\n", "holds no prompt"),
        ("p.csv", "", "holds no prompt"),
        ("p.txt", "# nothing\n\n", "holds no prompt"),
        ("p.csv", "prompt,seed\na heron, wading,1\n", r"line 2, has 3 cells under 2 columns"),
        ("p.csv", "prompt,seed\na,1\n,2\n", "line 3, has no prompt"),
        ("p.csv", "prompt,seed\na,minus\n", "seed 'minus'"),
        ("p.csv", "prompt,seed\na,-1\n", "seed '-1' is no whole number .*leave it empty"),
        ("p.csv", f"prompt,seed\na,{2**63}\n", "from 0 to 2\\^63 - 1"),
        ("p.csv", 'prompt\n"a\n', "not valid CSV"),
        ("p.csv", "prompt,name\na,x\nb,x\n", "'x' occurs more than once"),
        ("p.csv", "prompt,name\na,prompt-0001\nb,\n", "'prompt-0001' occurs more than once"),
        ("p.txt", "ok\n" + "a" * 10_001, r"line 2: a prompt has 10,001 characters, at most 10,000"),
        ("p.csv", "prompt,negative_prompt\na," + "b" * 10_001, "10,001 characters"),
        ("p.txt", "ok\nH\u00e4her".encode("latin-1"), r"not UTF-8 text \(line 2\)"),
        ("p.txt", "a heron".encode("utf-16-le"), "not UTF-8 text, it holds null bytes"),
        ("p.csv", "prompt\na heron".encode("utf-16-be"), "not UTF-8 text, it holds null bytes"),
        ("p.yaml", "a", r"must be \.txt"),
    ],
)
def test_unusable_prompt_files_are_refused_and_named(tmp_path: Path, name: str, content: str, said: str) -> None:
    path = written(tmp_path, name, content)
    with pytest.raises(SampleSetError, match=said) as caught:
        read_prompts(path)
    assert str(path) in str(caught.value)


def test_missing_file_and_empty_set_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SampleSetError, match=r"no\.txt cannot be read"):
        read_prompts(tmp_path / "no.txt")
    with pytest.raises(SampleSetError, match="at least one"):
        PromptSet(())


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("excel.txt", "Prompt\tNote\tSeed\r\nein Häher\tx\t7\r\n"),
        ("excel.csv", 'prompt;seed\r\n"ein Häher";7\r\n'),
        ("sep.csv", "sep=;\r\nprompt;seed\r\nein Häher;7\r\n"),
        ("spaces.csv", 'seed, prompt\n7, "ein Häher"\n'),
        ("columns.txt", "prompt,seed,cfg\nein Häher,7,3\n"),
        ("lines.jsonl", '{"prompt": "ein Häher", "seed": 7.0}\n'),
    ],
)
def test_texts_of_excel_and_others_are_read(tmp_path: Path, encoding: str, name: str, content: str) -> None:
    prompts = read_prompts(written(tmp_path, name, content.encode(encoding)))
    assert prompts.prompts == (Prompt("prompt-0000", "ein Häher", seed=7),)


@pytest.mark.parametrize("line", ["text, style", "a cat, text, description of a dog", "prompt of a cat,dog"])
def test_a_line_that_is_no_header_is_a_prompt(tmp_path: Path, line: str) -> None:
    if line == "text, style":
        line += ", oil"
    assert read_prompts(written(tmp_path, "p.txt", f"{line}\nb\n")).prompts[0].prompt == line


def test_quotation_marks_of_a_tsv_join_no_rows(tmp_path: Path) -> None:
    prompts = read_prompts(written(tmp_path, "p.tsv", 'Prompt\tCategory\n"hello\tA\nworld"\tB\n'))
    assert [(p.prompt, p.category) for p in prompts] == [('"hello', "A"), ('world"', "B")]
    prompts = read_prompts(written(tmp_path, "p.tsv", 'Prompt\tCategory\n"two\nlines"\tB\n'))
    assert [(p.prompt, p.category) for p in prompts] == [("two\nlines", "B")]


@pytest.mark.parametrize("column", ["id", "image_id", "uid"])
def test_ids_that_do_not_name_prompts_are_numbered_with_a_line(
    tmp_path: Path, column: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = written(tmp_path, "p.csv", f"{column},caption\n5,a\n5,b\n")
    with caplog.at_level("INFO"):
        assert read_prompts(path).prompt_ids == ("prompt-0000", "prompt-0001")
    assert f"column {column} of" in caplog.messages[0]


def read(folder: Path, name: str, content: str) -> list[tuple[str, str, str, str | None, int | None]]:
    found = read_prompts(written(folder, name, content))
    return [(p.prompt_id, p.prompt, p.negative_prompt, p.category, p.seed) for p in found]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.csv", "Prompt,Negative Prompt,Category,Seed,ID\na heron,blurry,birds,7,x\n"),
        ("p.csv", "caption;negative-prompt;class;seed;name\na heron;blurry;birds;7;x\n"),
        ("p.csv", '"text"\t"negative"\t"label"\t"sd_seed"\t"prompt_id"\na heron\tblurry\tbirds\t7.0\tx\n'),
        ("p.tsv", "Prompts\tneg_prompt\tcategories\tseed\tid\na heron\tblurry\tbirds\t7\tx\n"),
        ("p.jsonl", '{"prompt": "a heron", "negative_prompt": "blurry", "category": "birds", "seed": 7, "id": "x"}\n'),
        ("p.json", '[{"Description": "a heron", "negative": "blurry", "class": "birds", "seeds": 7, "key": "x"}]'),
    ],
)
def test_columns_are_known_by_their_usual_spellings(tmp_path: Path, name: str, content: str) -> None:
    assert read(tmp_path, name, content) == [("x", "a heron", "blurry", "birds", 7)]


def test_prompt_files_of_known_collections_are_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    drawbench = 'Prompts,Category\n"A red colored car.",Colors\n"One cat, one dog",Counting\n'
    assert [row[1:4] for row in read(tmp_path, "drawbench.csv", drawbench)] == [
        ("A red colored car.", "", "Colors"), ("One cat, one dog", "", "Counting"),
    ]  # fmt: skip
    parti = 'Prompt\tCategory\tChallenge\tNote\n"Hello" on a sign\tAbstract\tBasic\tWords\n'
    with caplog.at_level("INFO"):
        assert read(tmp_path, "PartiPrompts.tsv", parti)[0][1:4] == ('"Hello" on a sign', "", "Abstract")
    assert caplog.messages[-1].endswith("that are not used: Challenge, Note")
    i2p = ",prompt,categories,hard,sd_seed,sd_guidance_scale\n0,a heron,shocking,0,77,7.5\n"
    assert read(tmp_path, "i2p.csv", i2p) == [("prompt-0000", "a heron", "", "shocking", 77)]


def test_coco_captions_are_prompts_by_their_ids(tmp_path: Path) -> None:
    coco = {
        "info": {}, "images": [{"id": 5, "file_name": "5.jpg"}],
        "annotations": [{"image_id": 5, "id": n, "caption": f"caption {n} "} for n in (38, 39)],
    }  # fmt: skip
    found = read(tmp_path, "captions_val2017.json", json.dumps(coco))
    assert found == [("38", "caption 38", "", None, None), ("39", "caption 39", "", None, None)]


def test_lists_of_texts_are_prompts(tmp_path: Path) -> None:
    expected = [("prompt-0000", "a", "", None, None), ("prompt-0001", "b", "", None, None)]
    assert read(tmp_path, "p.json", '["a", "b"]') == expected
    assert read(tmp_path, "p.json", '{"prompts": ["a", {"text": "b"}]}'.replace('{"text": "b"}', '"b"')) == expected
    assert read(tmp_path, "p.jsonl", '"a"\n\n"b"\n') == expected


A, B = ("prompt-0000", "a", "", None, None), ("prompt-0001", "b", "", None, None)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("p.json", '{"prompt": "a"}\n{"prompt": "b"}\n', [A, B]),
        ("p.jsonl", '[{"prompt": "a"},\n {"prompt": "b"}]', [A, B]),
        ("p.jsonl", '["a", "b"]', [A, B]),
        ("p.json", '{"prompt": ["a", "b"], "seed": [1, 2]}', [(*A[:4], 1), (*B[:4], 2)]),
        ("p.json", '{"prompts": ["a", "b"], "negative_prompt": "x"}', [(*r[:2], "x", None, None) for r in (A, B)]),
        ("p.json", '{"prompt": "a"}', [A]),
        ("p.json", '{"x1": {"category": "cats", "prompt": "a"}}', [("x1", "a", "", "cats", None)]),
        ("p.json", '{"dataset": "coco", "images": [{"sentences": [{"raw": "a", "tokens": [1]}], "id": ""}]}', [A]),
        ("p.jsonl", '{"tag": "one", "include": [{"class": "cat"}], "prompt": "a", "category": {"en": "x"}}', [A]),
        ("p.jsonl", '{"prompt": "a", "seed": NaN}', [A]),
    ],
)
def test_json_of_any_shape_gives_its_prompts(tmp_path: Path, name: str, content: str, expected: list) -> None:
    assert read(tmp_path, name, content) == expected


def test_objects_are_no_text_and_named_as_not_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        read(tmp_path, "p.jsonl", '{"prompt": "a", "category": {"en": "x"}}')
    assert caplog.messages[-1].endswith("that are not used: category (objects)")


@pytest.mark.parametrize("name", ["Negative Prompt", "negativePrompt", "NEGATIVE-PROMPT", "neg", "uncond", "n_prompt"])
def test_negative_prompts_are_known_by_any_spelling(tmp_path: Path, name: str) -> None:
    assert read(tmp_path, "p.csv", f"prompt,{name}\na,dark\n")[0][2] == "dark"


def test_a_parquet_file_of_prompts_is_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = {"image_name": ["x.png", "y.png"], "prompt": ["a", "b"], "seed": pa.array([1, 2], pa.uint32())}
    pq.write_table(pa.table(table), tmp_path / "metadata.parquet")
    with caplog.at_level("INFO"):
        found = read_prompts(tmp_path / "metadata.parquet")
    assert [(p.prompt_id, p.prompt, p.seed) for p in found] == [("prompt-0000", "a", 1), ("prompt-0001", "b", 2)]
    assert caplog.messages[-1].endswith("that are not used: image_name")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("p.jsonl", '{"prompt": {"en": "a"}}\n', r"no field prompt.*prompt \(objects\)"),
        ("p.json", '{"prompt": ["a", "b"], "seed": [1]}', "has 2 prompts, but 1 of seed"),
        ("p.json", '{"1": "a", "2": "b"}', "holds no list of prompts"),
        ("p.jsonl", '{"prompt": "a"}\n{"prompt"\n', "line 2, is not JSON"),
        ("p.jsonl", '{"promt": "a"}\n', "no field prompt.*did you mean 'promt'"),
        ("p.jsonl", "3\n", "line 1, is neither a text nor an object"),
        ("p.jsonl", '{"prompt": "a"}\n{"id": 3}\n', "line 2, has no prompt"),
        ("p.json", '{"a": 1}', "holds no list of prompts"),
        ("p.json", "[]", "holds no prompt"),
        ("p.json", "[" * 100_000, "is not JSON"),
        ("p.tsv", "a\tb\n1\t2\n", "no column prompt"),
    ],
)
def test_unusable_json_and_tables_are_refused_and_named(tmp_path: Path, name: str, content: str, said: str) -> None:
    path = written(tmp_path, name, content)
    with pytest.raises(SampleSetError, match=said) as caught:
        read_prompts(path)
    assert str(path) in str(caught.value)
