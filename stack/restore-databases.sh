#!/bin/sh
# Restores the databases from $BACKUP/databases, each completely or not at all.
set -eu
for database in mlflow mlflow_auth prefect; do
  [ -f "$BACKUP/databases/$database.dump" ] || { echo "no $database.dump in BACKUP/databases: not a complete backup" >&2; exit 1; }
done
for database in mlflow mlflow_auth prefect; do
  pg_restore --dbname "$database" --clean --if-exists --single-transaction "$BACKUP/databases/$database.dump"
  echo "$database: restored"
done
