"""Lint: what workflow code must not do, found in its source; nothing of it is imported or run.

    catalogue.py    the rules, and the callables that they forbid: one table for the lint and for a node's start
    comment.py      `# perdure: ignore[...]`
    source.py       one file: its tree, its comments, where it may import from
    project.py      the files that were named, and those that they import
    values.py       what an expression may stand for
    bindings.py     which names a piece of code binds
    classes.py      methods and attributes of classes
    results.py      what a call gives
    scope.py        what a name or an expression stands for, at a place in the code
    roots.py        the workflow functions of a file
    body.py         a workflow function and its helpers, statement by statement
    order.py        what iterates over a set whose order differs between processes
    report.py       the whole of it: from paths to findings

`perdure lint` is its command; docs/lint.md explains each rule.
"""
