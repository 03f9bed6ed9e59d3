"""Ownership: the scopes that a node owns, how it gains them, and how it loses them."""
