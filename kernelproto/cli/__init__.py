"""The command ``kernelproto``, for people at a terminal. Needs the extra ``cli``."""
