"""Backbones cut into five stages, heads, freezing, weights."""
