"""Training questions made from documents: the paper's pipeline, stage by stage, to the end."""
