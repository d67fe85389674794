"""The training of what makes images."""
