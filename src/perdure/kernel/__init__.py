"""The pure core: events, commits, the deterministic loop and replay.

It has no clock, no I/O and no randomness of its own. Read it in this order: `data`, `loop`,
`execution`, `unit`.
"""
