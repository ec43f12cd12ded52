"""What the inside asks of the outside. A port's docstring is its contract."""
