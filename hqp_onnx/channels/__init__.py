"""Units of channels that can only be removed together: labels, the walk and its rules by operator; what units cost."""
