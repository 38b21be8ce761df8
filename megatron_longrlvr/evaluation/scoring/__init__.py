"""Scores of files of model outputs, by several rules side by side."""
