#!/bin/sh
# A worker whose flow runs share a DVC cache and use the bucket as DVC's default remote, whichever repository they clone.
set -eu
mkdir -p "$TMPDIR"
find "$TMPDIR" -mindepth 1 -maxdepth 1 -mtime +7 -exec rm -rf {} + # what runs that were killed left
dvc config --global cache.dir "$(dirname "$NERVESEG_CHECKPOINTS")/cache"
dvc remote add --global --force --default store "s3://$S3_BUCKET/dvc"
python -m flows.lost --watch &
prefect worker start --pool nerveseg --type process --with-healthcheck &
worker=$!

# On SIGTERM, Prefect's worker lets the flow runs that it has started end, but then often waits for ever. So it is ended
# here, once it has no runs or after 45 s; within the stop_grace_period of docker-compose.yml. A run that is cut off then
# goes on when a worker starts again: flows/lost.py.
stop() {
    kill -TERM "$worker" || exit 0
    for _ in $(seq 45); do
        runs=$(cat "/proc/$worker/task"/*/children 2> /dev/null) || break
        [ -n "$runs" ] || break
        sleep 1
    done
    kill -KILL "$worker" 2> /dev/null || true
    exit 0
}
trap stop TERM INT
wait "$worker"
