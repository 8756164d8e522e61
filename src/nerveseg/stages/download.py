"""Brings the dataset zip here and records exactly which object it was, or which ones it was made of."""

from pathlib import PurePosixPath

from nerveseg import paths
from nerveseg.data import folders
from nerveseg.data.sources import open_source
from nerveseg.data.transfer import download
from nerveseg.files import replacing, write_json
from nerveseg.params import Params
from nerveseg.settings import settings
from nerveseg.stages import main


def run(params: Params) -> None:
    anonymous, sha256 = settings().s3_anonymous, params.data.sha256
    if folders.is_folder(params.data.uri):
        folder = folders.open_folder(params.data.uri, anonymous=anonymous)
        record, items = folders.download(folder, paths.DATASET_ZIP, sha256)
    else:
        record = download(
            open_source(params.data.uri, params.data.version_id, anonymous=anonymous), paths.DATASET_ZIP, sha256
        )
        name = PurePosixPath(record["uri"]).name
        items = [folders.Item(name, record["size"], record["etag"], record["version_id"])]
    write_json(paths.SOURCE_JSON, record)
    with replacing(paths.MANIFEST) as beside:
        beside.write_text(folders.manifest(items), encoding="utf-8")


if __name__ == "__main__":
    main(run)
