"""Activities and checkpoints that run on a node.

Read the modules in this order:

    job          one attempt, and its states
    attempts     attempts from the call to the outcome
    lookout      whether the event loop is about to end
    slots        how many run at once
    timeouts     how long one may take
    runner       running a function, of whatever kind
    threads      where `def` activities run
    pool         the processes for activities with executor="process"
    line         what the node and such a process tell each other
    process      the program of such a process
    outcome      results and failures as data
"""
