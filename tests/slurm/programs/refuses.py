"""Finds a setting wrong, as `longrlvr train` says it."""

raise SystemExit(2)
