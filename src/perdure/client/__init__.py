"""Clients: starting, watching and ending instances, through a node or beside it."""
