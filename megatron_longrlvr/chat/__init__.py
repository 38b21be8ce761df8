"""Servers that speak OpenAI's protocol: limits, circuit breakers, retries, strict replies."""
