"""The stages of dvc.yaml: each a thin module whose `run` reads its files, calls the domain and writes its outputs."""

from collections.abc import Callable

from nerveseg import params
from nerveseg.console import readable_errors


def main(run: Callable[[params.Params], None]) -> None:
    """What `python -m nerveseg.stages.NAME` does: reads params.yaml and runs the stage, errors made readable."""
    with readable_errors():
        run(params.load())
