"""Rollouts on one server: which calls a version on trial answers, how it compares, and when it has to go."""
