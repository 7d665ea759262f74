"""Measures kernelproto beside others, in the same run on the same machine; see README.md."""
