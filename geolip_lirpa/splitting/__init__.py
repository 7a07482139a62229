"""Branch and bound: many small boxes, or signs of neurons, bounded by proven arithmetic.

Place in the data flow: level 7, between networks and `verify`.
"""
