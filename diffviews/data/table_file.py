"""Tables of measured values as Parquet files, in the encodings that such values shrink in."""

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq


def write_table(frame: pd.DataFrame, path: Path) -> None:
    """Write a table without its index; of a map's points it takes half of what pandas' defaults take.

    Coordinates hardly repeat, so a dictionary of them is one more copy. Ids mostly begin as the one before, and
    only where they differ from it is stored.
    """
    table = pa.Table.from_pandas(frame, preserve_index=False)
    texts = {field.name: "DELTA_BYTE_ARRAY" for field in table.schema if _is_text(field.type)}
    categories = [field.name for field in table.schema if pa.types.is_dictionary(field.type)]
    pq.write_table(table, path, compression="zstd", use_dictionary=categories, column_encoding=texts)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))
