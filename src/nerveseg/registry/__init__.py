"""The gate and the versions of the registered model."""
