"""Running a plan: what is unblocked, in parallel; a failure stops only what depends on it."""
