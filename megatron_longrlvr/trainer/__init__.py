"""The training loop and the assembly of its parts."""
