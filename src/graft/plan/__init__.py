"""Pure planning: run keys, arms, trials and their from-scratch twins."""
