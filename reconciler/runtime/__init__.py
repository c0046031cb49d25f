"""Containers as processes: the OCI bundle, runc under conmon, tasks, logs and terminals."""
