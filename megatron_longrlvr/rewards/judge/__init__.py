"""Answers judged by a language model: verdicts that are yes, no or none, and none is no number."""
