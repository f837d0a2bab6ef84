"""Training programs, which run in a framework's own environment.

They need Python 3.8 or newer, numpy and their framework, and import nothing of `dlperf`. Each is started as
`python -m frameworks.<framework>.train CASE_FILE` with the folder above this one on PYTHONPATH.
"""
