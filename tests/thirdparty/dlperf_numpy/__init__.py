"""A third party's framework: softmax regression in numpy, registered through an entry point as any other.

Put `tests/thirdparty` on PYTHONPATH and dlperf finds it. It trains for real, and fails for real where an
option asks for it.
"""
