"""The command line: parse, call, print, exit. Whatever it knows, another room told it.

One file for each command, or for two that are one to their user; `options` is what they share.
A room that only one command needs is imported by that command: `status` is asked often, and has
to answer at once.
"""
