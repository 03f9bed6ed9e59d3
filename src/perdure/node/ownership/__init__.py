"""Ownership: the scopes that a node owns, how it gains them, and how it loses them.

Read the modules in this order:

    scope        one scope, and its states
    ownership    the router that each delivery asks
    owner        gaining scopes and giving them up
    backlog      work that waits in the store
    arrivals     messages of which no hint has come
    blame        what a row says about crashes of the process
    suspects     finding the instance that ends the process
"""
