"""The output of a kernel's processes."""
