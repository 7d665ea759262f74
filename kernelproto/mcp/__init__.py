"""A server of the Model Context Protocol: language models run code in kernels of a pool.

The command ``kernelproto mcp`` and the server import this package, which needs the extra ``mcp``.
"""
