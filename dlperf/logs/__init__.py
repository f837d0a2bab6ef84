"""Our own log: its events, how a run failed, and how its processes ended."""
