"""Syncs between registries: what is recorded of them, what their registries say, and the copies."""
