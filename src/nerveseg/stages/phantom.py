"""The phantom stage: makes the built-in dataset."""

from nerveseg import paths
from nerveseg.data import phantom
from nerveseg.params import Params
from nerveseg.stages import main


def run(params: Params) -> None:
    """Writes `data/phantom.zip`."""
    phantom.write(paths.PHANTOM_ZIP, params.phantom)


if __name__ == "__main__":
    main(run)
