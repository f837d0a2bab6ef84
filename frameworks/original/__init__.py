"""Original training programs, run as they are: in a copy of their source, until enough lines are printed.

`run` is the program; `workspace` makes the copy, `processes` starts and ends what trains, `lines` reads the
throughput. docs/adding-a-framework.md walks through an example. Standard library alone, Python 3.8 or newer.
"""
