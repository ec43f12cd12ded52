"""The `syncline` command."""


def main() -> None:
    """Run the command line."""
