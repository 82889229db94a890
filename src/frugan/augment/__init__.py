"""The augment room of frugan."""
