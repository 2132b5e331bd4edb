"""The command line of normsurgery; imports nothing of it but its public names."""
