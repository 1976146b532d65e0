"""What guests may use: how often, how many at a time, how much in a turn and a day. The owner is free.

`guests.GuestLimits` is the one door; each other file is one limit, as values with the time given to it.
"""
