"""Training, on Lightning: what is trained, and what happens around a step."""
