"""How good a model is and how fast: metrics, the budget, latency."""
