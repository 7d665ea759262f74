"""A kernel's messages for many subscribers of different speeds."""
