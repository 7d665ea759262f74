"""``python -m kernelproto``: the command ``kernelproto``."""

from kernelproto.cli.main import program

if __name__ == "__main__":
    program()
