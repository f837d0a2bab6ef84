"""The largest batch and the most classes that train: found by search, with short runs for probes."""
