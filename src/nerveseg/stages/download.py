"""Brings the dataset zip here and records exactly which object it was."""

from nerveseg import paths
from nerveseg.data.sources import open_source
from nerveseg.data.transfer import download
from nerveseg.files import write_json
from nerveseg.params import Params
from nerveseg.settings import settings
from nerveseg.stages import main


def run(params: Params) -> None:
    source = open_source(params.data.uri, params.data.version_id, anonymous=settings().s3_anonymous)
    write_json(paths.SOURCE_JSON, download(source, paths.DATASET_ZIP, params.data.sha256))


if __name__ == "__main__":
    main(run)
