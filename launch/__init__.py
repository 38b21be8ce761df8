"""How runs are started: environment, quickstart and, on clusters, job scripts."""
