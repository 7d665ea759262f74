"""A server of the Model Context Protocol: language models run code in kernels of a pool.

The command ``kernelproto mcp`` is its only importer; it needs the extra ``mcp``.
"""
