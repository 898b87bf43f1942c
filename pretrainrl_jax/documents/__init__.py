"""Streamed text: readers, and where a document is cut."""
