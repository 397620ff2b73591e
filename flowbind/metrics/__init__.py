"""What a model is judged by, one measure a file: pure functions on tensors, a seed for what is random."""
