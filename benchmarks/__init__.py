"""Compare kernelproto with other libraries, in one run on one machine; see README.md."""
