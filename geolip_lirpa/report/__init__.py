"""Results as text: tables for people, objects for programs, statements for certificates.

Place in the data flow: level 11, ``result -> report``. Pure functions: nothing is computed, printed or
read here.
"""
