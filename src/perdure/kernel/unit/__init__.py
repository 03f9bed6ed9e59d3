"""Units: what one commit advances, and the turns that advance it.

Read `workflow_unit.py` first. Its docstring says in which order the others follow.
"""
