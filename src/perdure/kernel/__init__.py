"""The pure core: events, commits, the deterministic loop, replay. No clock, no I/O, no randomness of its own."""
