"""What the network sees: sources of images, splits, pixels and batches."""
