"""A kernelspec and its parameters: what a launch needs."""
