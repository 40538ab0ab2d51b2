"""What a person chooses: the schema of every knob, loading and validation."""
