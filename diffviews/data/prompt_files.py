"""Rows of prompt files, whatever their format: text, tables, JSON lines, COCO's captions, data sets of Hugging Face."""

import csv
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffviews.data.columns import SPELLINGS, find_column, plain
from diffviews.errors import SampleSetError, unknown_name

Row = tuple[int, Mapping[str, str]]
"""Line or number of a row, and its cells by column."""

_DELIMITERS = {".tsv": "\t", ".tab": "\t"}


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
    file = Path(path)
    if path.startswith("hf:") and not file.exists():
        return _hf_table(path.removeprefix("hf:"))
    reader = _READERS.get(file.suffix.lower())
    if reader is None:
        raise SampleSetError(
            f"prompt file {file} must be .txt, one prompt a line, .csv or .tsv with a column prompt, .jsonl, .json, or "
            "hf:<data set>"
        )
    return reader(file, _read_text(file))


def _read_text(file: Path) -> str:
    try:
        data = file.read_bytes()
    except OSError as error:
        raise SampleSetError(f"prompt file {file} cannot be read: {error.strerror}") from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise SampleSetError(f"prompt file {file} is not UTF-8 text (line {line}); save it as UTF-8") from error


def _lines(text: str) -> list[str]:
    return re.split(r"\r\n|\r|\n", text)


def _text_table(file: Path, text: str) -> PromptTable:
    lines = ((number, line.strip()) for number, line in enumerate(_lines(text), start=1))
    rows = ((number, {"prompt": line}) for number, line in lines if line and not line.startswith("#"))
    return PromptTable(f"prompt file {file}", ("prompt",), rows)


def _delimited_table(file: Path, text: str) -> PromptTable:
    place = f"prompt file {file}"
    delimiter = _DELIMITERS.get(file.suffix.lower()) or _delimiter(text)
    try:
        rows = list(_cells(text, delimiter, csv.QUOTE_MINIMAL))
    except csv.Error as error:
        if delimiter != "\t":
            raise SampleSetError(f"{place}, {error}") from error
        rows = list(_cells(text, delimiter, csv.QUOTE_NONE))  # where a quotation mark is only that
    if not rows:
        return PromptTable(place, ("prompt",), iter(()))
    header = tuple(cell.strip() for cell in rows[0][1])
    names = [plain(name) for name in header]
    if find_column("prompt", header) is None:
        raise SampleSetError(
            f"{place} has no column prompt in its first line: {unknown_name('column', 'prompt', filter(None, names))}"
        )
    known = {spelling for spellings in SPELLINGS.values() for spelling in spellings}
    repeated = [name for name in names if name in known and names.count(name) > 1]
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
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, quoting=quoting, strict=True)  # type: ignore[arg-type]
    try:
        for cells in lines:
            if any(cell.strip() for cell in cells):
                yield lines.line_num, cells
    except csv.Error as error:
        raise csv.Error(f"line {lines.line_num}, is not valid CSV: {error}") from error


def _json_lines_table(file: Path, text: str) -> PromptTable:
    numbered = [(number, line) for number, line in enumerate(_lines(text), start=1) if line.strip()]
    return _records_table(file, [(number, _json(file, line, number)) for number, line in numbered])


def _json_table(file: Path, text: str) -> PromptTable:
    """A list of texts or objects, or COCO's captions: `annotations` of `id`, `image_id` and `caption`."""
    said = _json(file, text, 1)
    if isinstance(said, dict):
        said = next((said[key] for key in ("annotations", "prompts", "data") if isinstance(said.get(key), list)), None)
    if not isinstance(said, list):
        raise SampleSetError(f"prompt file {file} holds no list of prompts, nor annotations with captions as COCO's")
    return _records_table(file, list(enumerate(said, start=1)), unit="entry")


def _records_table(file: Path, records: Sequence[tuple[int, Any]], unit: str = "line") -> PromptTable:
    place, rows, names = f"prompt file {file}", list[Row](), dict[str, None]()
    for number, record in records:
        if isinstance(record, str):
            record = {"prompt": record}
        if not isinstance(record, dict):
            raise SampleSetError(f"{place}, {unit} {number}, is neither a text nor an object with a prompt")
        cells = {str(name): _cell(value) for name, value in record.items()}
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
    place = f"hf:{location}"
    kinds = {name: type(feature).__name__ for name, feature in data.features.items()}
    values = [name for name, kind in kinds.items() if kind in ("Value", "List", "Sequence")]
    texts = [name for name in values if getattr(data.features[name], "dtype", "") in ("string", "large_string")]
    prompt = find_column("prompt", values) or (texts[0] if len(texts) == 1 else None)
    if prompt is None:
        raise SampleSetError(f"{place} has no column of prompts; its columns are {', '.join(data.column_names)}")
    chosen = data.select_columns(values)
    rows = (
        (number, {"prompt" if name == prompt else name: _cell(value) for name, value in row.items()})
        for number, row in enumerate(chosen)
    )
    return PromptTable(place, tuple("prompt" if name == prompt else name for name in values), rows, "row")


def _cell(value: Any) -> str:
    """Return a value as text; of a list, such as several captions of an image, the first."""
    if isinstance(value, list):
        return _cell(value[0]) if value else ""
    return "" if value is None else str(value).strip()


_READERS: Mapping[str, Callable[[Path, str], PromptTable]] = {
    ".txt": _text_table,
    ".csv": _delimited_table,
    ".tsv": _delimited_table,
    ".tab": _delimited_table,
    ".jsonl": _json_lines_table,
    ".ndjson": _json_lines_table,
    ".json": _json_table,
}
