"""Rows of prompt files, whatever their format: text, tables, JSON lines, COCO's captions, data sets of Hugging Face."""

import codecs
import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffviews.data.columns import SPELLINGS, find_column, plain, text_of
from diffviews.errors import SampleSetError, unknown_name

Row = tuple[int, Mapping[str, str]]
"""Line or number of a row, and its cells by column."""

_KNOWN = frozenset(spelling for spellings in SPELLINGS.values() for spelling in spellings)
_DELIMITERS = {".tsv": "\t", ".tab": "\t"}
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # begins as UTF-16's does
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


@dataclass(frozen=True, slots=True)
class PromptTable:
    """Rows under columns."""

    place: str
    """What errors call it."""
    names: tuple[str, ...]
    """Columns."""
    rows: Iterator[Row]
    unit: str = "line"
    """What the number of a row counts."""


def open_prompts(path: str) -> PromptTable:
    """Open a prompt file, or `hf:<id or folder>[:split]`.

    Raises:
        SampleSetError: if it is missing, of another format or encoding, or has no column of prompts.
    """
    file = Path(path).expanduser()
    if path.startswith("hf:") and not file.exists():
        return _hf_table(path.removeprefix("hf:"))
    if file.suffix.lower() == ".parquet":
        return _parquet_table(file)
    reader = _READERS.get(file.suffix.lower())
    if reader is None:
        raise SampleSetError(
            f"prompt file {file} must be .txt, one prompt a line, .csv or .tsv with a column prompt, .jsonl, .json, "
            ".parquet, or hf:<data set>"
        )
    return reader(file, _read_text(file))


def _read_text(file: Path) -> str:
    """Return a text in UTF-8, or in another Unicode encoding whose mark it begins with, as Excel writes."""
    try:
        data = file.read_bytes()
    except OSError as error:
        raise SampleSetError(f"prompt file {file} cannot be read: {error.strerror}") from error
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise SampleSetError(f"prompt file {file} is not UTF-8 text (line {line}); save it as UTF-8") from error
    if "\0" in text:
        raise SampleSetError(f"prompt file {file} is not UTF-8 text, it holds null bytes; save it as UTF-8")
    return text


def _lines(text: str) -> list[str]:
    return re.split(r"\r\n|\r|\n", text)


def _text_table(file: Path, text: str) -> PromptTable:
    """A prompt a line, unless the first line is plainly of columns: Excel calls such a file 'Unicode Text'."""
    first = next((line for line in _lines(text) if line.strip()), "")
    for mark in ("\t", ",", ";"):
        names = [plain(cell) for cell in first.split(mark)]
        known = len(_KNOWN.intersection(names))
        sure = mark == "\t" or known == len(names) or (known > 1 and f"{mark} " not in first)
        if len(names) > 1 and find_column("prompt", names) and sure:
            return _delimited_table(file, text, mark)
    lines = ((number, line.strip()) for number, line in enumerate(_lines(text), start=1))
    rows = ((number, {"prompt": line}) for number, line in lines if line and not line.startswith("#"))
    return PromptTable(f"prompt file {file}", ("prompt",), rows)


def _delimited_table(file: Path, text: str, delimiter: str = "") -> PromptTable:
    place = f"prompt file {file}"
    said = re.match("sep=(.)\r?\n", text)  # Excel's own line
    if said:
        text, delimiter = text[said.end() :], said[1]
    delimiter = delimiter or _DELIMITERS.get(file.suffix.lower()) or _delimiter(text)
    try:
        rows = list(_cells(text, delimiter, csv.QUOTE_MINIMAL))
        literal = delimiter == "\t" and any("\t" in cell for _, cells in rows for cell in cells)
    except csv.Error as error:
        if delimiter != "\t":
            raise SampleSetError(f"{place}, {error}") from error
        literal = True
    if literal:  # a quotation mark is only that, and opens no cell of several lines
        rows = list(_cells(text, delimiter, csv.QUOTE_NONE))
    if not rows:
        return PromptTable(place, ("prompt",), iter(()))
    header = tuple(cell.strip() for cell in rows[0][1])
    names = [plain(name) for name in header]
    if find_column("prompt", header) is None:
        raise SampleSetError(
            f"{place} has no column prompt in its first line: {unknown_name('column', 'prompt', filter(None, names))}"
        )
    repeated = [name for name in names if name in _KNOWN and names.count(name) > 1]
    if repeated:
        raise SampleSetError(f"{place} has the column {repeated[0]} more than once")
    return PromptTable(place, header, _under(header, rows[1:], place))


def _under(header: Sequence[str], rows: Sequence[tuple[int, list[str]]], place: str) -> Iterator[Row]:
    for line, cells in rows:
        if len(cells) > len(header):
            raise SampleSetError(
                f"{place}, line {line}, has {len(cells)} cells under {len(header)} columns; "
                'write a text that holds a comma in "quotation marks"'
            )
        yield line, {name: cell.strip() for name, cell in zip(header, cells, strict=False)}


def _delimiter(text: str) -> str:
    """Return what divides the columns of the first line that is not empty, the comma unless another fits."""
    first = next((line for line in _lines(text) if line.strip()), "")
    fitting = [mark for mark in (",", ";", "\t", "|") if find_column("prompt", first.replace('"', "").split(mark))]
    return max(fitting, key=lambda mark: (first.count(mark), mark == ",")) if fitting else ","


def _cells(text: str, delimiter: str, quoting: int) -> Iterator[tuple[int, list[str]]]:
    stream = io.StringIO(text, newline="")
    lines = csv.reader(stream, delimiter=delimiter, quoting=quoting, strict=True, skipinitialspace=True)  # type: ignore[arg-type]
    try:
        for cells in lines:
            if any(cell.strip() for cell in cells):
                yield lines.line_num, cells
    except csv.Error as error:
        raise csv.Error(f"line {lines.line_num}, is not valid CSV: {error}") from error


def _json_lines_table(file: Path, text: str) -> PromptTable:
    numbered = [(number, line) for number, line in enumerate(_lines(text), start=1) if line.strip()]
    try:
        records = [(number, _json(file, line, number)) for number, line in numbered]
    except SampleSetError:
        if not text.lstrip().startswith("["):
            raise
        return _records_table(file, _entries(file, _json(file, text, 1)), unit="entry")
    if len(records) == 1 and isinstance(records[0][1], list):
        return _records_table(file, _entries(file, records[0][1]), unit="entry")
    return _records_table(file, records)


def _json_table(file: Path, text: str) -> PromptTable:
    """One value, or one a line as many a `.json` has."""
    try:
        said = _json(file, text, 1)
    except SampleSetError as error:
        if "Extra data" in str(error):
            return _json_lines_table(file, text)
        raise
    return _records_table(file, _entries(file, said), unit="entry")


def _entries(file: Path, said: Any) -> list[tuple[int, Any]]:
    """Return the prompts of a JSON file.

    A list of texts or objects; COCO's captions, `annotations` of `id`, `image_id` and `caption`; objects by their
    names; or columns, `{"prompt": […], "seed": […]}`.
    """
    found: Any = said
    if isinstance(said, dict):
        prompt = find_column("prompt", said)
        lists = [value for value in said.values() if isinstance(value, list) and _has_prompt(value[:1])]
        if prompt and not isinstance(said[prompt], list):
            found = [said]
        elif prompt and all(isinstance(text, str) for text in said[prompt]):
            found = _rows_of(file, said, len(said[prompt]))
        elif lists:
            found = lists[0]
        elif _has_prompt(list(said.values())[:1]):
            found = [{"name": name, **value} for name, value in said.items() if isinstance(value, dict)]
        else:
            keys = (key for key in ("annotations", prompt, "data") if key and isinstance(said.get(key), list))
            found = said.get(next(keys, ""))
    if not isinstance(found, list):
        raise SampleSetError(f"prompt file {file} holds no list of prompts, nor annotations with captions as COCO's")
    return list(enumerate(found, start=1))


def _has_prompt(records: Sequence[Any]) -> bool:
    return bool(records) and isinstance(records[0], dict) and find_column("prompt", records[0]) is not None


def _rows_of(file: Path, columns: Mapping[str, Any], count: int) -> list[dict[str, Any]]:
    """Return the rows of columns; what is no list holds for every row."""
    for name, values in columns.items():
        if isinstance(values, list) and len(values) != count:
            raise SampleSetError(f"prompt file {file} has {count} prompts, but {len(values)} of {name}")
    every = {name: values if isinstance(values, list) else [values] * count for name, values in columns.items()}
    return [{name: values[row] for name, values in every.items()} for row in range(count)]


def _records_table(file: Path, records: Sequence[tuple[int, Any]], unit: str = "line") -> PromptTable:
    place, rows, names = f"prompt file {file}", list[Row](), dict[str, None]()
    for number, record in records:
        if isinstance(record, str):
            record = {"prompt": record}
        if not isinstance(record, dict):
            raise SampleSetError(f"{place}, {unit} {number}, is neither a text nor an object with a prompt")
        cells = dict(_cell(str(name), value) for name, value in record.items())
        names |= dict.fromkeys(cells)
        rows.append((number, cells))
    if rows and find_column("prompt", names) is None:
        raise SampleSetError(f"{place} has no field prompt: {unknown_name('field', 'prompt', names)}")
    return PromptTable(place, tuple(names), iter(rows), unit)


def _json(file: Path, text: str, line: int) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SampleSetError(f"prompt file {file}, line {line}, is not JSON: {error}") from error


def _hf_table(location: str) -> PromptTable:
    from diffviews.data.hf_source import open_dataset

    data, _ = open_dataset(location)
    features = data.features
    kinds = {name: type(feature).__name__ for name, feature in features.items()}
    lists = {name: features[name].names for name, kind in kinds.items() if kind == "ClassLabel"}
    values = [name for name, kind in kinds.items() if kind in ("Value", "List", "Sequence", "ClassLabel")]
    values += [name for name, kind in kinds.items() if kind == "dict" and text_of(dict.fromkeys(features[name], "x"))]
    texts = [name for name in values if getattr(features[name], "dtype", "") in ("string", "large_string")]
    return _table(f"hf:{location}", tuple(kinds), values, texts, data.select_columns(values), lists)


def _parquet_table(file: Path) -> PromptTable:
    from diffviews.data.parquet_source import texts_of

    names, texts, rows, lists = texts_of(file)
    return _table(f"prompt file {file}", names, list(names), texts, rows, lists)


def _table(
    place: str,
    names: Sequence[str],
    values: Sequence[str],
    texts: Sequence[str],
    rows: Iterable[Mapping[str, Any]],
    class_lists: Mapping[str, Sequence[str]],
) -> PromptTable:
    """Return typed rows as prompts.

    Args:
        place: what errors call them.
        names: of all columns.
        values: those that may hold texts or numbers.
        texts: those of texts alone; a single one holds the prompts, whatever its name.
        rows: by column.
        class_lists: names of the classes that columns of labels count.
    """
    prompt = find_column("prompt", values) or (texts[0] if len(texts) == 1 else None)
    if prompt is None:
        raise SampleSetError(f"{place} has no column of prompts; its columns are {', '.join(names)}")

    def cells() -> Iterator[Row]:
        for number, row in enumerate(rows):
            named = {n: _name_of(v, class_lists[n]) if n in class_lists else v for n, v in row.items()}
            yield number, dict(_cell("prompt" if name == prompt else name, value) for name, value in named.items())

    return PromptTable(place, tuple("prompt" if name == prompt else name for name in names), cells(), "row")


def _name_of(label: Any, names: Sequence[str]) -> str | None:
    return names[label] if isinstance(label, int) and 0 <= label < len(names) else None


def _cell(name: str, value: Any) -> tuple[str, str]:
    """Return a field's name and text; an object without a text is no field that is read, and called so."""
    text = text_of(value)
    inner = value[0] if isinstance(value, list) and value else value
    return (f"{name} (objects)", "") if text is None and isinstance(inner, dict) else (name, (text or "").strip())


_READERS: Mapping[str, Callable[[Path, str], PromptTable]] = {
    ".txt": _text_table,
    ".csv": _delimited_table,
    ".tsv": _delimited_table,
    ".tab": _delimited_table,
    ".jsonl": _json_lines_table,
    ".ndjson": _json_lines_table,
    ".json": _json_table,
}
