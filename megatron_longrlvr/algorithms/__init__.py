"""Advantages, losses and packing; torch on any device, no Megatron, no engine."""
