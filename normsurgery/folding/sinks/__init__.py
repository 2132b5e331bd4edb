"""What absorbs an affine map: one function an operator."""
