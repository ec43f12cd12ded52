"""The client's shell: what runs on the side of the user."""
