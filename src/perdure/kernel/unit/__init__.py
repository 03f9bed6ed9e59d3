"""Units: what one commit advances, in memory. The modules follow in the order of a turn:

workflow_unit.py  a workflow instance, and the way of a turn
mailbox.py     messages that no turn has taken
budget.py      how much one turn may do
control.py     cancel, terminate, pause, resume, retry
deletion.py    delete, prune
lifecycle.py   starting, continuing as new, ending
waiting.py     messages that were taken and cannot be delivered yet
offer.py       messages for waits, which may not fit
collect.py     the results of the run
outbox.py      messages to other units
row_state.py   the state of the unit, in its row
turn.py        the results of the turn, and its Commit
"""
