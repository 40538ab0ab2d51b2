"""From recorded runs to the verdict and the report."""
