"""Training programs, run inside a framework's own environment.

Standard library, numpy and the one framework; Python 3.8 or newer; nothing of `dlperf`. Each is started as
`python -m frameworks.<framework>.train CASE_FILE` with the folder above this one on PYTHONPATH.
"""
