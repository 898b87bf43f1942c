"""What a model knows, and whether it knows that it does not: the measures, as pure functions on numbers."""
