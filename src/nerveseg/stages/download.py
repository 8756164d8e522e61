"""Brings the dataset zip here and records exactly which objects it was made of."""

from nerveseg import paths
from nerveseg.data import folders
from nerveseg.files import replacing, write_json
from nerveseg.params import Params
from nerveseg.settings import settings
from nerveseg.stages import main


def run(params: Params) -> None:
    record, items = folders.fetch(
        params.data.uri,
        paths.DATASET_ZIP,
        version_id=params.data.version_id,
        sha256=params.data.sha256,
        anonymous=settings().s3_anonymous,
    )
    write_json(paths.SOURCE_JSON, record)
    with replacing(paths.MANIFEST) as beside:
        beside.write_text(folders.manifest(items), encoding="utf-8")


if __name__ == "__main__":
    main(run)
