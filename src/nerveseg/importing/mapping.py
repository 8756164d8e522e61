"""What the settings of another system are here: the rows of its table, and what makes an overlay of a file by them."""

import textwrap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from nerveseg import params

Content = Mapping[str, Any]  # of a file: nested sections
Converter = Callable[[Any, Content], dict[str, Any]]

_SIDE = 32  # the sides of the network's input are multiples of it
_REMARK = 300  # characters: it quotes the value
_UNKNOWN = "nerveseg does not know this key"


class NoCounterpartError(Exception):
    """A value that has no counterpart; the message says why, and what to do."""


@dataclass(frozen=True)
class Setting:
    """A row of the table: one setting of the other system, or several that have the same answer.

    Attributes:
        names: dotted, such as training.batch_size; one that names a section stands for all of it.
        parameters: dotted names of what it sets; empty: it has no counterpart.
        note: what differs or, without a counterpart, what is taken instead.
        convert: makes the parameters of its value and of the whole file, or raises NoCounterpartError.
    """

    names: tuple[str, ...]
    parameters: tuple[str, ...] = ()
    note: str = ""
    convert: Converter = lambda _value, _content: {}


@dataclass(frozen=True)
class Kind:
    """A kind of file that can be imported.

    Attributes:
        name: as part of a sentence, such as "a Hydrogen Torch experiment".
        expected: the keys that tell it from others, as part of a sentence.
        evidence: why a file is of this kind, as part of a sentence; empty: it is not.
        settings: the table.
        implied: what the system does without saying so in the file, by dotted names of the table.
        about_implied: where that comes from, as a sentence for the user; empty: nothing is worth saying.
        check: raises NervesegError for a file of this kind that is for another task. Gets the content and the
            file's name.
    """

    name: str
    expected: str
    evidence: Callable[[Content], str]
    settings: tuple[Setting, ...]
    implied: Mapping[str, Any]
    about_implied: str
    check: Callable[[Content, str], None]


@dataclass(frozen=True)
class Row:
    """What became of one setting of a file.

    Attributes:
        name, value: of the setting.
        taken: the parameters that it sets, by dotted names; empty: it is not imported.
        remark: what differs; if it is not imported, why, or what is taken instead.
    """

    name: str
    value: Any
    taken: dict[str, Any] = field(default_factory=dict)
    remark: str = ""


def as_is(name: str, parameter: str, note: str = "") -> Setting:
    """A setting that has the same values here."""
    return Setting((name,), (parameter,), note, lambda value, _: {parameter: value})


def choice(name: str, parameter: str, values: Mapping[str, Any], note: str = "", others: str = "") -> Setting:
    """A setting whose values have other names here; their case does not matter.

    Args:
        others: what to do about a value that is not among them.
    """

    def convert(value: Any, _: Content) -> dict[str, Any]:
        key = str(value).lower()
        if key not in values:
            raise NoCounterpartError(f"only {', '.join(values)} have a counterpart" + (f"; {others}" if others else ""))
        return {parameter: values[key]}

    return Setting((name,), (parameter,), note, convert)


def without(note: str, *names: str) -> Setting:
    """Settings that have no counterpart."""
    return Setting(names, note=note)


def number(value: Any) -> float:
    """The value, if it is a number. Raises NoCounterpartError."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise NoCounterpartError("it is not a number")
    return float(value)


def side(value: Any) -> int:
    """The nearest multiple of 32 to a number of pixels. Raises NoCounterpartError."""
    try:
        return round(number(value) / _SIDE) * _SIDE
    except (ValueError, OverflowError):  # not finite, or beyond any
        raise NoCounterpartError("it is not a number of pixels") from None


def found(content: Content, name: str) -> Any:
    """The value of a dotted name, or None."""
    value: Any = content
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def plain(text: Any) -> str:
    """A text of the file on one line of a terminal, without characters that a terminal would act on."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in str(text))


def translate(kind: Kind, content: Content, base: dict[str, Any]) -> list[Row]:
    """What becomes of each setting of a file, in the order of the table, with unknown ones at the end.

    A value that params.yaml would not accept is not imported: it is not changed to one that is.

    Args:
        content: of the file.
        base: the content of a valid params.yaml, which the overlay is for.
    """
    known = {name: (place, setting) for place, setting in enumerate(kind.settings) for name in setting.names}
    given = [*_settings(content, known), *kind.implied.items()]
    given.sort(key=lambda item: known[item[0]][0] if item[0] in known else len(known))
    rows = [
        _converted(known[name][1], name, value, content) if name in known else Row(name, value, remark=_UNKNOWN)
        for name, value in given
    ]
    return _accepted(rows, base)


def overlay(rows: list[Row]) -> dict[str, Any]:
    """The parameters that rows set, as nested sections in the order of params.yaml."""
    values = {name: value for row in rows for name, value in row.taken.items()}
    return params.replaced({}, {name: values[name] for name in params.schemas() if name in values})


def _settings(content: Content, known: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The dotted names and values of a file: of sections, what is in them, unless the table has the section."""
    for key, value in content.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value and name not in known:
            yield from _settings(value, known, f"{name}.")
        else:
            yield name, value


def _converted(setting: Setting, name: str, value: Any, content: Content) -> Row:
    try:
        return Row(name, value, setting.convert(value, content), setting.note)
    except NoCounterpartError as reason:
        return Row(name, value, remark=str(reason))


def _accepted(rows: list[Row], base: dict[str, Any]) -> list[Row]:
    """Rows without the values that params.yaml does not accept, beside those that it does.

    Some are valid only together with others, whatever their order, so refused ones are tried again.
    """
    values: dict[str, Any] = {}
    refused = {place: "" for place, row in enumerate(rows) if row.taken}
    before = len(refused) + 1
    while len(refused) < before:
        before = len(refused)
        for place in list(refused):
            faults = params.faults(params.replaced(base, values | rows[place].taken))
            if faults:
                refused[place] = textwrap.shorten("; ".join(faults), _REMARK)
            else:
                values |= rows[place].taken
                del refused[place]
    return [
        Row(row.name, row.value, remark=refused[place]) if place in refused else row for place, row in enumerate(rows)
    ]
