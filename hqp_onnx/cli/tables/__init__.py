"""Results in words and rich tables, for a terminal or plain text: one module per kind of result."""
