"""Frames that are set aside because of their errors, instead of rejecting the dataset: `data.quarantine`.

Only an error of one frame sets it aside. One that leaves open which frames are right concerns the dataset: several
classes, several values of the nerve in the masks, a name for two files.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from nerveseg.data.findings import Finding, counted, errors
from nerveseg.data.layouts.dataset import IMAGE_SUFFIXES, Record, has_suffix
from nerveseg.data.names import natural_key

# They name a frame as an example at most.
_OF_DATASET = frozenset({"several classes", "missing class", "unknown class", "several mask values", "duplicate name"})
_WITHOUT_RECORD = "missing frame"  # a mask or a row without its image: the finding may name the image or its table


def of_frames(findings: Sequence[Finding], records: Sequence[Record]) -> dict[str, list[Finding]]:
    """The errors of single frames, by the name of the frame, in natural order.

    Args:
        records: of the dataset, those with errors included.
    """
    names = {record.image for record in records}
    names |= {
        each.image for each in findings if each.kind == _WITHOUT_RECORD and has_suffix(each.image, IMAGE_SUFFIXES)
    }
    found = defaultdict(list)
    for each in errors(findings):
        if each.image in names and each.kind not in _OF_DATASET:
            found[each.image].append(each)
    return {image: found[image] for image in sorted(found, key=natural_key)}


def described(findings: Sequence[Finding], records: Sequence[Record]) -> dict[str, Any]:
    """What findings.json holds of the frames that are set aside: `frames`, with those that have no record,
    `frames_set_aside`, and `set_aside`, a list of `image` and `reasons`.
    """
    aside = of_frames(findings, records)
    return {
        "frames": len({record.image for record in records} | set(aside)),
        "frames_set_aside": len(aside),
        "set_aside": [
            {"image": image, "reasons": [f"{each.kind}: {each.detail}" for each in found]}
            for image, found in aside.items()
        ],
    }


def refusal(report: Mapping[str, Any], cap: float) -> str:
    """Why a dataset is rejected all the same, as a part of a sentence; empty: it is not.

    Args:
        report: the content of findings.json.
        cap: `data.quarantine_cap`.
    """
    aside = {each["image"] for each in report["set_aside"]}
    rest = [each for each in errors(report["findings"]) if each.image not in aside or each.kind in _OF_DATASET]
    if rest:
        kinds = ", ".join(dict.fromkeys(each.kind for each in rest))
        return (
            f"has {counted(rest, 'error')} of more than single frames ({kinds}), which data.quarantine cannot set aside"
        )
    number, frames = report["frames_set_aside"], report["frames"]
    if number and number / frames > cap:
        return (
            f"has errors in {number} of {frames} frames, {100 * number / frames:.3g} %, more than the "
            f"{100 * cap:.3g} % that may be set aside (data.quarantine_cap)"
        )
    return ""
