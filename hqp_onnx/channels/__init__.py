"""Units of channels that can only be removed together, and what they cost."""
