"""Text to records: what the logs of training programs say."""
