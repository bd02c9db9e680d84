"""The loan desk: a small simulated support desk to learn the whole loop on.

`desk` holds what the lender knows and asks of its agents, `customers` and
`replies` write the two sides of a conversation, `rubric` judges a reply by the
written guidelines. Training never sees the rubric; it sees rankings only.
None of these modules needs torch; only `make_base`, which pretrains the bundled
base model, does.
"""
