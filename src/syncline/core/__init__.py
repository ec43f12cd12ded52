"""The rules: names, entries, manifests, changes, commits, locks. No I/O, clock or randomness."""
