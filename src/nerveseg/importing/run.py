"""`nerveseg profile import`: an overlay of params.yaml from the settings of another system."""

import json
from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

from rich.table import Table
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from nerveseg import params, paths
from nerveseg.console import console
from nerveseg.errors import NervesegError
from nerveseg.files import replacing
from nerveseg.importing import hydrogen_torch, mapping, nnunet
from nerveseg.importing.mapping import Content, Kind, Row, plain

KINDS = (hydrogen_torch.KIND, nnunet.PLANS_KIND, nnunet.DATASET_KIND)
MAX_BYTES = 2**18  # real files have some ten thousand
_MAX_VALUES = 10_000  # an alias of YAML repeats what it stands for
_MAX_DEPTH = 20
_MAX_BITS = 1000  # below, a number fits into a float
_NULL = "tag:yaml.org,2002:null"
_NAME = 60  # characters of a name
_SHOWN = 20  # characters of a value


def run(file: Path, out: Path | None) -> None:
    """Writes an overlay of params.yaml from a file, and prints what became of each setting in it.

    Args:
        out: None: `profiles/NAME.yaml`, by the file's name.

    Raises:
        NervesegError: the file is no such file, or is for another task; none of its settings can be imported; `out`
            exists; params.yaml is invalid. Nothing is written then.
    """
    target = out or paths.PROFILES / f"{file.stem}.yaml"
    if target.exists():
        raise NervesegError(f"{target} exists: remove it, or name another file with --out.")
    content = read(file)
    kind = recognise(content, file)
    base = params.read_yaml(paths.PARAMS)
    params.parse(base, str(paths.PARAMS))
    rows = mapping.translate(kind, content, base)
    if kind.about_implied:
        console.print(kind.about_implied, soft_wrap=True)
    _print(rows)
    overlay = mapping.overlay(rows)
    if not overlay:
        raise NervesegError(f"No setting of {file} is imported, for the reasons above, so {target} is not written.")
    _write(target, overlay, f"{file.name}, {kind.name}")
    name = target.stem if target == paths.PROFILES / f"{target.stem}.yaml" else target
    console.print(
        f"{target} is written: `nerveseg profile apply {name}` merges it into {paths.PARAMS}.", soft_wrap=True
    )


def read(file: Path) -> Content:
    """The content of a YAML or JSON file. Nothing in it is run.

    Raises:
        NervesegError: it is missing, too large, neither YAML nor JSON, or not sections.
    """
    try:
        with file.open("rb") as opened:
            data = opened.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise NervesegError(f"{file} is larger than 256 KiB, which no such file is.")
        text = data.decode("utf-8")
        content = json.loads(text) if text.lstrip().startswith("{") else YAML(typ="safe", pure=True).load(text)
    except (FileNotFoundError, IsADirectoryError):
        raise NervesegError(f"{file} is not a file: name the YAML or JSON of the other system.") from None
    except UnicodeDecodeError:
        raise NervesegError(
            f"{file} is not text. Plans of nnU-Net 1 are pickles, which nerveseg does not load: use those of version 2."
        ) from None
    except (YAMLError, ValueError, RecursionError) as error:
        raise NervesegError(f"{file} is neither YAML nor JSON: {error}") from None
    if not isinstance(content, dict):
        has = "is empty" if content is None else f"is of type {type(content).__name__}"
        raise NervesegError(f"{file} must contain sections, but {has}.")
    _require_bounded(content, file)
    return content


def _require_bounded(content: Content, file: Path) -> None:
    waiting: list[tuple[int, Any]] = [(0, content)]
    count = 0
    while waiting:
        depth, value = waiting.pop()
        count += 1
        is_huge = isinstance(value, int) and value.bit_length() > _MAX_BITS
        if count > _MAX_VALUES or depth > _MAX_DEPTH or is_huge:
            raise NervesegError(
                f"{file} has over {_MAX_VALUES} values, {_MAX_DEPTH} levels or huge numbers, which no such file has."
            )
        if isinstance(value, Mapping):
            waiting += [(depth + 1, each) for each in value.values()]
        elif isinstance(value, list | set | tuple):
            waiting += [(depth + 1, each) for each in value]


def recognise(content: Content, file: Path) -> Kind:
    """What kind of file it is, which is printed with the reason.

    Raises:
        NervesegError: it is of no kind or of several, or it is for another task.
    """
    reasons = [(kind, reason) for kind in KINDS if (reason := kind.evidence(content))]
    if len(reasons) != 1:
        has = ", ".join(plain(key) for key in list(content)[:20]) or "nothing"
        expected = "; ".join(kind.expected for kind in KINDS)
        which = "fits several kinds of file" if reasons else "is no file that can be imported"
        raise NervesegError(f"{file} {which}. One of these is expected: {expected}. It has {has}.")
    [(kind, reason)] = reasons
    kind.check(content, str(file))
    console.print(f"{file} is {kind.name}: {reason}.", soft_wrap=True)
    return kind


def _print(rows: list[Row]) -> None:
    imported = [[*_cells(row), _lines(row.taken), row.remark] for row in rows if row.taken]
    alike = groupby((row for row in rows if not row.taken), key=lambda row: row.remark)
    others = [[*map("\n".join, zip(*map(_cells, part), strict=True)), remark] for remark, part in alike]
    _print_table("Imported", ("setting", "value", "parameter", "remark"), imported)
    _print_table("Not imported", ("setting", "value", "why, or what is taken instead"), others)


def _cells(row: Row) -> tuple[str, str]:
    return _cut(row.name, _NAME), _shown(row.value)


def _print_table(title: str, columns: tuple[str, ...], rows: list[list[str]]) -> None:
    table = Table(title=title, title_justify="left", show_lines=True)
    for number, column in enumerate(columns):
        table.add_column(column, no_wrap=number < len(columns) - 1, overflow="fold")
    for row in rows:
        table.add_row(*("\n".join(map(plain, cell.split("\n"))) for cell in row))
    if rows:
        console.print(table)


def _lines(values: Mapping[str, Any]) -> str:
    return "\n".join(f"{name}: {_shown(value)}" for name, value in values.items())


def _shown(value: Any) -> str:
    return _cut(json.dumps(value, default=str, skipkeys=True, ensure_ascii=False), _SHOWN)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[:length]}..."


def _write(target: Path, overlay: dict[str, Any], source: str) -> None:
    yaml = YAML()
    yaml.width = 4096  # do not wrap lines
    yaml.representer.add_representer(type(None), lambda made, _: made.represent_scalar(_NULL, "null"))
    with replacing(target) as beside, beside.open("w", encoding="utf-8") as opened:
        opened.write(f"# From {plain(source)}, by `nerveseg profile import`.\n\n")
        yaml.dump(overlay, opened)
