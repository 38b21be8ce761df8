"""Layout arithmetic, process groups and the device."""
