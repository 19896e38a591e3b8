"""What is on disk: formats, commits, seals and the order in which examples are read."""
