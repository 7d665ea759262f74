"""A kernel's connection file, ports and paths."""
