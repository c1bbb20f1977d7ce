"""The working set held against the log: what is wrong in it is named, and can be rebuilt."""
