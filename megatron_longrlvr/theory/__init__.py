"""The paper's claim about vanishing gradients, computed and simulated on its own small model."""
