"""Programs that are run by their path. They import nothing of the package."""
