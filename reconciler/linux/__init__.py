"""What the program asks of the kernel: mounts, namespaces, cgroups, locks, and files that survive a crash."""
