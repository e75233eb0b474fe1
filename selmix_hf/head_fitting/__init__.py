"""Heads that are fitted on stored features."""
