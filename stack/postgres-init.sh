#!/bin/sh
# Runs once, when the data folder is empty: creates MLflow's and Prefect's databases and roles, isolated from each other.
set -eu
psql --username postgres --dbname postgres --quiet --set ON_ERROR_STOP=1 \
  --set mlflow="$MLFLOW_DATABASE_PASSWORD" --set prefect="$PREFECT_DATABASE_PASSWORD" <<'SQL'
CREATE ROLE mlflow LOGIN PASSWORD :'mlflow';
CREATE ROLE prefect LOGIN PASSWORD :'prefect';
CREATE DATABASE mlflow OWNER mlflow;
CREATE DATABASE mlflow_auth OWNER mlflow;
CREATE DATABASE prefect OWNER prefect;
REVOKE CONNECT ON DATABASE mlflow, mlflow_auth, prefect, postgres FROM PUBLIC;
\connect prefect
CREATE EXTENSION IF NOT EXISTS pg_trgm;
SQL
