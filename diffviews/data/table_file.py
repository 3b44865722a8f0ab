"""Tables of measured values as Parquet files, in the encodings that such values shrink in."""

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq


def write_table(frame: pd.DataFrame, path: Path) -> None:
    """Write a table without its index; of a map's points it takes less than half of what pandas' defaults take.

    Coordinates hardly repeat, so no dictionary helps them, but their exponents do: floats are split into
    bytes of equal weight. Ids mostly begin as the one before, which is all that is stored of that part.
    """
    table = pa.Table.from_pandas(frame, preserve_index=False)
    encodings = {field.name: found for field in table.schema if (found := _encoding(field.type)) is not None}
    categories = [field.name for field in table.schema if pa.types.is_dictionary(field.type)]
    pq.write_table(table, path, compression="zstd", use_dictionary=categories, column_encoding=encodings)


def _encoding(kind: pa.DataType) -> str | None:
    if pa.types.is_float32(kind) or pa.types.is_float64(kind):
        return "BYTE_STREAM_SPLIT"
    return "DELTA_BYTE_ARRAY" if pa.types.is_string(kind) or pa.types.is_large_string(kind) else None
