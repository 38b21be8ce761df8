"""What a recipe needs of a cluster, before it is queued: memory, time, cost, and better layouts."""
