"""Documents, chunks, prompts and responses as text; the toy task."""
