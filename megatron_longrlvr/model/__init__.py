"""The policy: a megatron-core model, its weights, its learner."""
