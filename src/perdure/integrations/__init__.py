"""Adapters from Perdure to tools of others, one per module. Nothing here is loaded before it is imported."""
