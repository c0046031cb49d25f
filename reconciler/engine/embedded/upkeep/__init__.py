"""Keeping a root in order: recovery, collection, verification and repair."""
