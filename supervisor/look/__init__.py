"""Looks at what really is, for the audit and the doctor: each look costs what has changed.

It only looks, in a thread of its own or anybody's; what it finds is judged in `drift`.
"""
