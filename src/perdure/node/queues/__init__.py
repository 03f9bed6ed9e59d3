"""Shared queues: tasks in the store, for any node that serves them.

Read the modules in this order:

    routes       which calls become tasks, and the rules of their queues
    held         a task that this node has leased, and its lease
    worker       leases tasks, and runs them as attempts of this node
    keeper       renews leases and sessions
    results      posts results, until the store has them
    overdue      attempts whose worker was lost, or that have waited too long
    store_time   the time by which all nodes of a store measure leases
"""
