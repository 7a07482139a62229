"""The command line ``geolip-lirpa``: bounds, their certificates, and programs for other solvers.

Place in the data flow: level 12, above everything. One module a command; heavy packages (torch, auto_LiRPA, cvxpy) are
imported by a command when it runs, so that help, version and shell completion are quick.
"""

from geolip_lirpa.cli.entry import main

__all__ = ["main"]
