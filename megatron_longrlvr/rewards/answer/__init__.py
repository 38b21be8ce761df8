"""Answer verifiers, one a file."""
