"""Several servers with one registry: each server forwards requests to the one with the kernel."""
