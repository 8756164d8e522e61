"""The phantom stage: makes the built-in dataset."""

from nerveseg import paths
from nerveseg.params import Params
from nerveseg.phantom import dataset as phantom
from nerveseg.stages import main


def run(params: Params) -> None:
    """Writes `data/phantom.zip`."""
    phantom.write(paths.PHANTOM_ZIP, params.phantom)


if __name__ == "__main__":
    main(run)
