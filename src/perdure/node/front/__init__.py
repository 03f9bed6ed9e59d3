"""The front of a node: it listens, answers clients and other nodes, and asks other nodes.

    clients ──▶ front.py ──▶ the node's gateway ──▶ units of this node in memory
                                                ──▶ peers.py ──▶ the owner of the unit
                                                ──▶ the store

A node without `listen` has no front. Nothing durable depends on it: all that is lost here is found
by the store.
"""
