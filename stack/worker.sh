#!/bin/sh
# A worker whose flow runs share a DVC cache and use the bucket as DVC's default remote, whichever repository they clone.
set -eu
mkdir -p "$TMPDIR"
find "$TMPDIR" -mindepth 1 -maxdepth 1 -mtime +7 -exec rm -rf {} + # what runs that were killed left
dvc config --global cache.dir "$(dirname "$NERVESEG_CHECKPOINTS")/cache"
dvc remote add --global --force --default store "s3://$S3_BUCKET/dvc"
python -m flows.lost --watch &
exec prefect worker start --pool nerveseg --type process --with-healthcheck
