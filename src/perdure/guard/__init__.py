"""The guard: what keeps workflow code from what replay cannot repeat, and turns from lasting for ever."""
