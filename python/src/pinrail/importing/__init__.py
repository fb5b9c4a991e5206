"""``pinrail import``: workflow files of other tools become a Pinrail project.

The files are read by their syntax trees and never imported, so neither the other tool nor what the files use has to be
installed. ``_evaluate`` follows what a file says at its top (loops, f-strings, functions that make workflows),
``_airflow`` and ``_pinball`` know the names of the two tools, ``_operators`` and ``_pinball`` say what becomes of them,
``_waiting`` has the conditions for sensors, ``_choosing`` the questions to branches, ``_jobs`` moves the functions of
tasks, ``_project`` writes the files.

Invariants: what is not translated is in the report with file and line; a job that could not be translated is in the
workflow all the same and fails with what is to be done; no existing file is changed.
"""
