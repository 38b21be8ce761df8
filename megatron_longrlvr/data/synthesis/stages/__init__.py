"""The stages of a synthesis, a file for each."""
