"""What a model takes on its target, as a function of its widths."""
