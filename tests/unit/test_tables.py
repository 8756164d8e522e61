import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dataset_zips import parquet, write_zip
from nerveseg.data import tables
from nerveseg.data.archive import Archive
from nerveseg.errors import NervesegError


def rows(tmp_path: Path, content: bytes, wanted: list[str], name: str = "t.pq") -> list[tuple[str | None, ...]]:
    with Archive(write_zip(tmp_path / "a.zip", {name: content})) as archive:
        return list(tables.rows(archive, name, wanted))


def refusal(tmp_path: Path, content: bytes, name: str = "t.pq") -> str:
    with pytest.raises(NervesegError, match=f"^{name} in .* cannot be read: ") as error:
        rows(tmp_path, content, ["image", "rle_mask"], name)
    return str(error.value)


def repeated(number: int, text: str) -> bytes:
    """A parquet file with one row and its text, listed `number` times."""
    indices = pa.array(np.zeros(number, np.int32))
    table = pa.table({name: pa.DictionaryArray.from_arrays(indices, [text]) for name in ("image", "rle_mask")})
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", store_schema=False)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_dictionary": False},
        {"use_dictionary": False, "column_encoding": {"rle_mask": "DELTA_BYTE_ARRAY"}},
        {"row_group_size": 2, "compression": "zstd"},
    ],
)
def test_any_parquet_gives_the_same_cells(tmp_path: Path, options: dict[str, object]) -> None:
    table = pa.table({"image": ["1_1.png"] * 3, "rle_mask": ["1 5", None, " 1 55 "], "fold": [1.0, None, 2.0]})
    buffer = io.BytesIO()
    pq.write_table(table, buffer, **options)
    assert rows(tmp_path, buffer.getvalue(), ["rle_mask", "fold", "site"]) == [
        ("1 5", "1", None),
        (None, None, None),
        ("1 55", "2", None),
    ]


@pytest.mark.parametrize(
    "column", [[[1, 5]], [["1 5"]], [{"counts": "1 5"}]], ids=["list of integers", "list of texts", "struct"]
)
def test_cells_that_are_no_text_are_named(tmp_path: Path, column: list[object]) -> None:
    text = refusal(tmp_path, parquet(image=["1_1.png"], rle_mask=column))
    assert "its column rle_mask has the type" in text
    assert "'start length start length'" in text


def test_a_table_with_thousands_of_columns_is_refused(tmp_path: Path) -> None:
    assert "1001 columns" in refusal(tmp_path, b"a," * 1000 + b"a\n", "t.csv")
    assert "columns; the limit" in refusal(tmp_path, b"," * 10_000_000, "t.csv")


def test_cells_that_repeat_count_each_time(tmp_path: Path) -> None:
    assert len(rows(tmp_path, repeated(20, "1 5"), ["image"])) == 20
    assert "unpack to more than 268435456 bytes" in refusal(tmp_path, repeated(20_000, "1 5 " * 5_000))


def test_a_parquet_of_dictionary_values_stays_within_a_limit_of_memory(tmp_path: Path) -> None:
    """Starts a process, because a limit of memory is that of a process."""
    path = write_zip(tmp_path / "a.zip", {"train.pq": repeated(900_000, "1 " * 50_000)})
    assert path.stat().st_size < 1000  # 90 GB, unpacked
    code = (
        "import resource, sys; from pathlib import Path; from nerveseg.data import archive;"
        "from nerveseg.data.layouts import dataset, detect;"
        "resource.setrlimit(resource.RLIMIT_DATA, (2**30, 2**30));"
        "detect.find(archive.Archive(Path(sys.argv[1])), 'auto', dataset.Choices())"
    )
    command = [sys.executable, "-c", code, path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "NervesegError: train.pq in" in done.stderr
    assert "unpack to more than" in done.stderr
