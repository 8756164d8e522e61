"""The team stack: what the services of docker-compose.yml run in our image; `native` runs them without containers."""
