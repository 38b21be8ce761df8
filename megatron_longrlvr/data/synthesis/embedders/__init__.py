"""Ways to turn the chunks of a document into vectors."""
