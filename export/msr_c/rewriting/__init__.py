"""Rewriting a graph so that its C is short and fast."""
