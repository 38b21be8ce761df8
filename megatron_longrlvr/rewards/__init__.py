"""What a response earns, and the parts that made it up."""
