"""A client of kernelproto's server, for programs that run code on another machine."""
