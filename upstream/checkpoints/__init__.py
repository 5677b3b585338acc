"""MT4SSL weights on disk: run folders, conversion, export, other toolkits' checkpoints."""
