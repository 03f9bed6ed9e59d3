"""The loop of a node: message, turn, commit, effects.

Read the modules in this order:

    turns        the loop itself, in the order of the picture in ARCHITECTURE.md
    residents    a unit in memory, with its mailbox and the senders that wait
    ready        which unit has the next turn, and for how long turns are taken
    supervisor   running code that may not end
    stages       work of a turn before its commit
    committer    commits in batches, and their verdicts
    patience     asking a store until it answers
    freezer      what a node does until then
    refusals     commits that the store has not accepted
    memory       the ways of units into memory and out of it
    loader       reading units and inboxes from the store
    deadlines    when which unit is due
    waiters      callers that wait for the end of a run
    ending       how the loop comes to rest, and to its end
"""
