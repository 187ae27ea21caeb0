"""Experiments: what an action on the cluster must do to the sessions at the least, and what it did."""
