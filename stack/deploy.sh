#!/bin/sh
# Registers the content of prefect.yaml in the configured repository.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
git clone --quiet --depth 1 "$NERVESEG_REPOSITORY" "$folder"
cd "$folder"
python -m flows.deploy
