"""Activities and checkpoints that run on a node."""
