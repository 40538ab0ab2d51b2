"""Take it home: the chosen model on new images, and in a registry."""
