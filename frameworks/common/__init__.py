"""What the training programs of all frameworks share: the definition of the work, not the doing of it."""
