"""The team stack: what docker-compose.yml runs, and a harness that runs the same services without containers."""
