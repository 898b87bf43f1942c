"""What a model knows: of single questions, of its own confidence, and beside what theory allows."""
