"""From the learner's sharded weights to what the rollout engine samples from, with proof."""
