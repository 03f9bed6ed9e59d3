"""The guard, which keeps workflow code from what replay cannot repeat.

A node scans each definition when it starts (`scan.py`, `bytecode.py`). While code runs,
`runtime.py` refuses calls, and `watchdog.py` ends turns that take too long.
"""
