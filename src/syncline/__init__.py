"""Syncline keeps a folder identical on many machines, through one server."""

__version__ = "0.1.0"
