"""Training, on Lightning: what learns, and what happens around a step."""
