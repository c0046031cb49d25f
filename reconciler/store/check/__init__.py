"""Checking the store: what its rows claim against what is on disk."""
