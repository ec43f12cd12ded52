"""A mount: the engine that keeps a local directory equal to a volume."""
