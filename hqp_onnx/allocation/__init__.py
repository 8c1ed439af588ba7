"""Which widths cost least quality for a given time: groups, loss curves, an exact choice, a search around it."""
