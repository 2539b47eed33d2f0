"""What the gateway costs, measured on the installed program over real sockets: ``./run bench``.

Figures are ratios within one run, against references that are measured beside it: whatever else
the machine is doing slows both.
"""
