"""Stops because its answers are not judged, as `longrlvr train` does."""

raise SystemExit(75)
