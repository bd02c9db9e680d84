"""Everything durable: the workspace folder, its database, atomic publishing, and the readers of data files.

    workspace.py    Workspace: datasets, answer groups, rankings, adapters, runs
    runs.py         Run: metrics, checkpoints, events
    database.py     tables, engines, the one writer; migrations/ holds the schema's history
    verdicts.py     answer groups and rankings in the database
    publish.py      a folder appears whole or not at all; manifests
    formats.py      rows of every supported layout -> records; fields.py checks fields, files.py reads the bytes
    checks.py  lineage.py  faults.py  failpoints.py   small helpers

Import the module you need: this package stays empty, so that `tunesmith --help` pays for no database.
"""
