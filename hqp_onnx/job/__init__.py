"""One optimization: options, candidates, verdicts, search, and its outcome."""
