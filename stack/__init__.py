"""The team stack: what docker-compose.yml runs, and the harness that runs the same without containers."""
