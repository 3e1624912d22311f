"""Process groups, the start of a run's processes, and guidance divided among them."""
