"""What stands in for containers: the services of docker-compose.yml as processes of this machine. Not in the image."""
