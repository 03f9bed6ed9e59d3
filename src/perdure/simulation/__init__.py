"""Simulation: random work on nodes of which any may fail, from a seed, on virtual time."""
