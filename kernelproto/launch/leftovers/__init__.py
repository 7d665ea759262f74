"""Records of running kernels, and the removal of files and processes of dead programs."""
