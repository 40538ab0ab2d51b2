"""Compute once: activations of frozen stages kept on disk, heads that train together."""
