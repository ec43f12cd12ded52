"""The works that are measured, a row each."""
