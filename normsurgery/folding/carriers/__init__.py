"""What an affine map can cross, and what it becomes on the other side."""
