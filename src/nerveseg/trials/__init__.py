"""Many trainings: tables of configurations, and the search for a better one."""
