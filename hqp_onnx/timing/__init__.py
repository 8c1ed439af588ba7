"""What a node costs on the target."""
