"""The largest batch or number of classes that trains, found by a search whose probes are short runs."""
