"""Preferences: what a file says is better than what, and the answer trees made of it."""
