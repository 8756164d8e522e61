"""Settings of other systems as overlays of params.yaml."""
