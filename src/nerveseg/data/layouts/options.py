"""How a dataset is read outside the pipeline: as options of the command line say, or params.yaml."""

from dataclasses import replace

from nerveseg import params, paths
from nerveseg.data.layouts.dataset import Choices
from nerveseg.data.names import FIRST_PART, MASK_SUFFIXES
from nerveseg.errors import NervesegError


def read(subject: str | None, classes: str | None) -> tuple[str, Choices]:
    """`data.subject`, and how a layout is read.

    Args:
        subject: as `data.subject`; None: that of params.yaml here, or as it is shipped.
        classes: values for `data.classes`, with commas between them, or "null"; None: those of params.yaml here.

    Raises:
        NervesegError: `subject`, `classes` or params.yaml is invalid.
    """
    rule, choices = FIRST_PART, Choices(mask_suffixes=MASK_SUFFIXES)
    if paths.PARAMS.exists():
        here = params.load().data
        rule, choices = here.subject, Choices(here.classes, here.mask_suffixes)
    if subject is not None:
        try:
            rule = params.subject_rule(subject)
        except ValueError as error:
            raise NervesegError(f"--subject: {error}.") from None
    if classes is not None:
        names = [name.strip() for name in classes.split(",")]
        if "" in names:
            raise NervesegError('--classes: a name is empty; write such as "nerve" or "1,2", or "null".')
        chosen = None if names == ["null"] else [int(name) if name.isdecimal() else name for name in names]
        choices = replace(choices, classes=chosen)
    return rule, choices
