"""Garbage collection: leases protect, marks say what stays, and the rest goes in short turns."""
