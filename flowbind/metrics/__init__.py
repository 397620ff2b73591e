"""What a model is judged by, one measure a file: pure functions on tensors.

What is random takes a seed.
"""
