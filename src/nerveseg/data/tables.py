"""Reads the tables of an untrusted dataset zip, parquet or CSV: cells as text, within a budget of bytes."""

import csv
import io
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import csv as arrow_csv
from pyarrow import types

from nerveseg.data.archive import MAX_MEMBER_BYTES, Archive
from nerveseg.errors import NervesegError

MAX_TEXT_BYTES = MAX_MEMBER_BYTES  # of the cells that are read: a parquet of 500 bytes may hold gigabytes of them
MAX_COLUMNS = 1000

_CELL_BYTES = 64  # what a cell costs beside its text
_BATCH = 10_000  # rows
_CSV_BLOCK = 4 * 2**20  # bytes; a longer row cannot be read
_MOST_PARTS = 10_000  # columns or row groups of a parquet file
_NO_DICTIONARY = "DictAccumulator"  # in Arrow's words on an encoding, DELTA_BYTE_ARRAY, that it cannot read as one
_NULLS = ("", "nan", "none", "null", "<na>")
_ERRORS = (pa.ArrowException, csv.Error, ValueError, OSError, MemoryError)


def is_table(name: str) -> bool:
    """Whether a member of the zip is a table, by its suffix."""
    return _is_parquet(name) or name.lower().endswith(".csv")


def with_columns(archive: Archive, required: Collection[str]) -> list[str]:
    """The tables in a zip that have these columns. Raises NervesegError as `columns`."""
    names = [name for name in archive.names if is_table(name)]
    return [name for name in names if set(required) <= set(columns(archive, name))]


def columns(archive: Archive, table: str) -> list[str]:
    """The names of the columns of a table. Raises NervesegError if it is damaged or has more than 1000."""
    with _readable(archive, table):
        content = archive.read(table)
        if _is_parquet(table):
            names = list(map(str, _parquet_file(content).schema_arrow.names))
        else:
            head = io.TextIOWrapper(io.BytesIO(content[:_CSV_BLOCK]), "utf-8-sig", newline="")
            names = next(csv.reader(head), [])
        if not names:
            raise ValueError("it is empty")
        if len(names) > MAX_COLUMNS:
            raise ValueError(f"it has {len(names)} columns; the limit is {MAX_COLUMNS}")
        return names


def rows(archive: Archive, table: str, wanted: Sequence[str]) -> Iterator[tuple[str | None, ...]]:
    """The cells of each row in the columns `wanted`, without surrounding spaces; None: null, or no such column.

    Raises:
        NervesegError: the table is damaged, has a column twice, has a column of `wanted` that is neither text nor
            numbers, or has cells that take more than 256 MiB, with 64 bytes for each beside its text.
    """
    names = columns(archive, table)
    with _readable(archive, table):
        if len(names) > len(set(names)):
            raise ValueError("two of its columns have the same name")
        content, present = archive.read(table), [name for name in wanted if name in names]
        spent = 0
        for batch in _parquet(content, present) if _is_parquet(table) else _csv(content, present):
            spent += sum(_cost(column) for column in batch.columns)
            if spent > MAX_TEXT_BYTES:
                raise ValueError(
                    f"its columns {', '.join(present)} unpack to more than {MAX_TEXT_BYTES} bytes; split the dataset "
                    "into several"
                )
            cells = {name: _texts(batch.column(name)) for name in present}
            blank = [None] * batch.num_rows
            yield from zip(*(cells.get(name, blank) for name in wanted), strict=True)


def _parquet(content: bytes, wanted: list[str]) -> Iterator[pa.RecordBatch]:
    file = _parquet_file(content)
    for name in wanted:
        kind = file.schema_arrow.field(name).type
        if not _is_scalar(kind.value_type if types.is_dictionary(kind) else kind):
            raise ValueError(
                f"its column {name} has the type {kind}; write it as text, run lengths as 'start length start length'"
            )
    done = 0
    try:
        # As dictionaries, values that repeat are not unpacked here.
        for batch in _parquet_file(content, wanted).iter_batches(_BATCH, columns=wanted, use_threads=False):
            yield batch
            done += batch.num_rows
        return
    except OSError as error:
        if _NO_DICTIONARY not in str(error):
            raise
    # No value is longer than its row group, which bounds a batch. The chunks' metadata would say so more exactly, but
    # reading them ends the process if they are damaged.
    longest = max(file.metadata.row_group(number).total_byte_size for number in range(file.num_row_groups))
    rows = min(_BATCH, max(1, MAX_TEXT_BYTES // max(1, longest)))
    for batch in file.iter_batches(rows, columns=wanted, use_threads=False):
        yield batch.slice(min(done, batch.num_rows))
        done -= min(done, batch.num_rows)


def _csv(content: bytes, wanted: list[str]) -> Iterator[pa.RecordBatch]:
    yield from arrow_csv.open_csv(
        pa.BufferReader(content),
        read_options=arrow_csv.ReadOptions(use_threads=False, block_size=_CSV_BLOCK),
        convert_options=arrow_csv.ConvertOptions(
            include_columns=wanted, column_types=dict.fromkeys(wanted, pa.string())
        ),
    )


def _parquet_file(content: bytes, as_dictionaries: Sequence[str] = ()) -> pq.ParquetFile:
    return pq.ParquetFile(
        pa.BufferReader(content),
        read_dictionary=list(as_dictionaries),
        thrift_string_size_limit=_CSV_BLOCK,
        thrift_container_size_limit=_MOST_PARTS,
    )


def _is_scalar(kind: pa.DataType) -> bool:
    return any(
        matches(kind)
        for matches in (
            types.is_string,
            types.is_large_string,
            types.is_string_view,
            types.is_binary,
            types.is_large_binary,
            types.is_integer,
            types.is_floating,
            types.is_boolean,
            types.is_null,
        )
    )


def _cost(column: pa.Array) -> int:
    """Bytes that the cells of a column take as text, before they are unpacked."""
    is_dictionary = types.is_dictionary(column.type)
    values = column.dictionary if is_dictionary else column
    if types.is_primitive(values.type) or types.is_null(values.type):
        return _CELL_BYTES * len(column)
    lengths = pc.binary_length(values)
    text = pc.sum(lengths.take(column.indices) if is_dictionary else lengths).as_py()
    return _CELL_BYTES * len(column) + (text or 0)


def _texts(column: pa.Array) -> list[str | None]:
    return [_none_if_null(text) for text in column.cast(pa.string()).to_pylist()]


def _none_if_null(text: str | None) -> str | None:
    text = text and text.strip()
    return None if text is None or text.lower() in _NULLS else text


def _is_parquet(name: str) -> bool:
    return name.lower().endswith((".pq", ".parquet"))


@contextmanager
def _readable(archive: Archive, table: str) -> Iterator[None]:
    try:
        yield
    except _ERRORS as error:
        raise NervesegError(f"{table} in {archive.path} cannot be read: {error}") from None
