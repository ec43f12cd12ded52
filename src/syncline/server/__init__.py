"""The server: one use case a module."""
