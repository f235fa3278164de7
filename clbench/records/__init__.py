"""What a run leaves, and what can be computed from it without a model. No torch."""
