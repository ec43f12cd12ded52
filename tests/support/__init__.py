"""What tests of several parts share: tiny trees, tables, waiting."""
