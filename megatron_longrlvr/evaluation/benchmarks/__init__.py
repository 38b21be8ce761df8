"""Long-context benchmarks from local files: reading, prompts, sampling."""
