"""Recipes shipped with the package, complete YAML."""
