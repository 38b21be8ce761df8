"""Settings that all tests share."""

from hypothesis import settings

# A shared machine may pause for longer than Hypothesis' deadline; --durations shows what is slow.
settings.register_profile("shared-machine", deadline=None)
settings.load_profile("shared-machine")
