"""Task groups, waiters and shields: the concurrency that every layer uses."""
