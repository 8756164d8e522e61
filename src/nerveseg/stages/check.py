"""check: all of params.yaml, before any other stage starts: DVC deletes the outputs of a stage before it runs it."""

from nerveseg import paths
from nerveseg.files import replacing
from nerveseg.model.spec import usable_flips
from nerveseg.params import LEVELS, Params
from nerveseg.stages import main
from nerveseg.training import recipes


def run(params: Params) -> None:
    """Writes `data/checked`, which phantom and download wait for; its content never changes, so it makes nothing stale.

    Reading the parameters has checked them, except for what only the augmentation can tell.

    Raises:
        NervesegError: a file with an augmentation that is missing or cannot be used, or flips in scoring that the
            training does not have.
    """
    name = recipes.resolve(params.train).augmentation
    if params.model.flips or name not in LEVELS:
        from nerveseg.data.augment import Augmentation  # its library takes seconds to import

        augmentation = Augmentation(name)
        augmentation.try_out(params.model.height, params.model.width)
        usable_flips(params.model.flips, augmentation.flips)
    with replacing(paths.CHECKED) as beside:
        beside.write_text(f"{paths.PARAMS} is valid.\n", encoding="utf-8")


if __name__ == "__main__":
    main(run)
