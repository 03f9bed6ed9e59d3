"""Upkeep of the store, so that it does not grow for ever."""
