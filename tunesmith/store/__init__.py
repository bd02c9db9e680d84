"""Everything durable: the workspace folder, its database, atomic publishing, and the readers of data files.

    workspace.py    Workspace: datasets, answer groups, rankings, adapters, runs
    runs.py         Run: metrics, checkpoints, events
    publish.py      a folder appears whole or not at all; manifests
    lineage.py  removal.py    which code made it; what may be deleted

    database.py     engines, the one writer; tables.py; migrations/ holds the schema's history
    verdicts.py     answer groups and rankings in the database; sets.py reads sets a part at a time
    places.py       how many people may judge a group, and who holds a place; invariants.py counts it again
    work.py         claims with leases, verdicts that come back; mine.py shows a person's own
    project.py      how a set is ranked; health.py counts for the dashboards; critiques.py who sees one
    desk.py         demonstrations: drafts and reviews
    team.py         accounts, invitations, sessions, quarantine; keys.py, passwords.py, audit.py
    endpoints.py    servers that may write answers
    interactions.py what users of served models said and did; privacy.py, pii.py take personal data out before;
                    erasure.py ends it and names what learned from it; logs.py reads other tools' logs
    jobs.py  blobs.py  once.py  deliveries.py    the API's fine-tuning jobs, files, retries, webhooks
    move.py         the database from SQLite to PostgreSQL and back

    formats.py      rows of every supported layout -> records; unranked.py, chatlogs.py; fields.py checks fields,
                    files.py reads the bytes
    foreign.py      judgements as Argilla, Label Studio and Tunesmith itself write them
    exchange.py     judgements in and out; material.py is what goes out, sheets.py writes tables

    checks.py  faults.py  failpoints.py   small helpers

Import the module you need: this package stays empty, so that `tunesmith --help` pays for no database.
"""
