"""What the training programs of all frameworks share: the definition of the work, not its execution."""
