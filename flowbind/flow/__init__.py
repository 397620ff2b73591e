"""The mathematics of flows, on torch alone."""
