"""check: all of params.yaml, before any other stage starts: DVC deletes the outputs of a stage before it runs it."""

from nerveseg import paths
from nerveseg.files import replacing
from nerveseg.params import Params
from nerveseg.stages import main


def run(params: Params) -> None:
    """Writes `data/checked`, which phantom and download wait for; its content never changes, so it makes nothing stale.

    Reading the parameters has checked them.
    """
    with replacing(paths.CHECKED) as beside:
        beside.write_text(f"{paths.PARAMS} is valid.\n", encoding="utf-8")


if __name__ == "__main__":
    main(run)
