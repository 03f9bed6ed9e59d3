"""The lint finds calls that workflow code must not make. It reads source, and imports or runs none.

    catalogue.py    the rules and the callables that they forbid, for lint and node start
    comment.py      `# perdure: ignore[...]`
    source.py       one file: its tree, its comments, its package
    project.py      the named files, and the files that they import
    values.py       the values of expressions, as far as they are known
    bindings.py     the names that a piece of code binds
    classes.py      methods and attributes of classes
    results.py      the value that a call returns
    scope.py        the value of a name or an expression, at a place in the code
    roots.py        the workflow functions of a file
    body.py         a workflow function and its helpers, statement by statement
    order.py        iteration over a set whose order differs between processes
    report.py       the way from paths to findings

`perdure lint` is its command. docs/lint.md explains each rule.
"""
