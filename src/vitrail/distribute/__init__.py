"""Independent pieces of work, and where they are done: here, in processes, by claims on a shared disk, on a cluster."""
