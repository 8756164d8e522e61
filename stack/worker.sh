#!/bin/sh
# Starts a worker. Its flow runs share a DVC cache and the bucket as DVC's default remote, whatever repository they clone.
set -eu
mkdir -p "$TMPDIR"
find "$TMPDIR" -mindepth 1 -maxdepth 1 -mtime +7 -exec rm -rf {} + # left behind by killed runs
dvc config --global cache.dir "$(dirname "$NERVESEG_CHECKPOINTS")/cache"
dvc remote add --global --force --default store "s3://$S3_BUCKET/dvc"
(while :; do python -m flows.lost || true; sleep 300; done) &
exec prefect worker start --pool nerveseg --type process --with-healthcheck
