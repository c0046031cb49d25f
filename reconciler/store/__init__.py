"""What is on disk: verified blobs, their metadata, unpacked layers, snapshots, leases and collection."""
