"""One technology a module, each behind a port."""
