"""The spec language: files with positions, their schema, and the way to `Desired`."""
