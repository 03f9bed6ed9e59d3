"""What a node does beside its work, so that the store does not grow for ever."""
