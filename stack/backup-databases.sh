#!/bin/sh
# Writes a DATABASE.dump for each database to $BACKUP/databases; a dump appears only once it is complete.
set -eu
mkdir -p "$BACKUP/databases"
for database in mlflow mlflow_auth prefect; do
  pg_dump --format custom --file "$BACKUP/databases/$database.dump.partial" "$database"
  mv "$BACKUP/databases/$database.dump.partial" "$BACKUP/databases/$database.dump"
  echo "$database: $(du -h "$BACKUP/databases/$database.dump" | cut -f 1)"
done
