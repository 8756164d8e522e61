"""What draws figures: the report's page, charts, overlays and tables."""
