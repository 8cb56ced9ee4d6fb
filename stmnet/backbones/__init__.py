"""Published networks and front ends, written by hand."""
