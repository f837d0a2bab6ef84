"""The PyTorch training program: eager or compiled, one process per device.

The modules and their names are those of `frameworks/mxnet` and `frameworks/oneflow`, in the same order.
"""
