"""Driving: the teacher of the racetrack, and the rule that the field's tables hold beside every policy.

The environments are highway-env's own (``highway_env:highway-fast-v0``); nothing of them is adapted.
"""
