"""The lint finds calls that workflow code must not make. It reads source, and imports or runs none.

    catalogue.py    the rules and the callables that they forbid, for lint and node start
    comment.py      `# perdure: ignore[...]`
    source.py       one file: its tree, its comments, where it may import from
    project.py      the named files, and the files that they import
    values.py       what an expression may stand for
    bindings.py     which names a piece of code binds
    classes.py      methods and attributes of classes
    results.py      the value that a call returns
    scope.py        what a name or an expression stands for, at a place in the code
    roots.py        the workflow functions of a file
    body.py         a workflow function and its helpers, statement by statement
    order.py        iteration over a set whose order differs between processes
    report.py       the way from paths to findings

`perdure lint` is its command; docs/lint.md explains each rule.
"""
