"""Recipes as typed, closed records; imports without torch."""
