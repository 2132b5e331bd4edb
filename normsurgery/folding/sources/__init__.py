"""What is an affine map: one function an operator."""
