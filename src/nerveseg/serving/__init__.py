"""The delivered champion over HTTP. No mlflow, torch or prefect."""
