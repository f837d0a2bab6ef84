"""Records to figures: the results on disk and the statistics over them."""
