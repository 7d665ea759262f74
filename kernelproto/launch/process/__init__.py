"""A kernel's process, on each platform."""
