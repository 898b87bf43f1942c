"""The report on knowledge: what a model knows, what it believes falsely, whether it knows the difference."""
