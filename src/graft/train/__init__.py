"""One training run on Lightning."""
