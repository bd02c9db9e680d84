"""Judgement about judgements, pure: rankings to groups, agreement, simulated labelers. No torch, no database."""
