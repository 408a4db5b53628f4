"""Decisions, pure and without HTTP: each module is one policy with its configuration beside it."""
