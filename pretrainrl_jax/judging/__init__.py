"""Judges and rewriters: who says which continuation is better, and by what."""
