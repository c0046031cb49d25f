"""The embedded engine: the store, the registry client, the runtime and the network, composed into one."""
