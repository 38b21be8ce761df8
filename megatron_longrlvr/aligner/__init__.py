"""NeMo-Aligner's PPO loop over our learner, engines, rewards, checkpoints and records."""
