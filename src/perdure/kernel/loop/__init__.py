"""The event loop on which workflow code runs.

An execution (`kernel/execution/`) owns a loop, enters it for a turn, and disposes of it at the end.
"""
