"""Reads the configuration, picks adapters, wires the object graph."""
