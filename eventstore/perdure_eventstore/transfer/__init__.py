"""Events out of one log and into another: as lines of JSON, loss-free, each hash to be computed from its line alone."""
