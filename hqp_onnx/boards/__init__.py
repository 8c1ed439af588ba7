"""Boards: machines that models are timed on, while all else is computed here."""
