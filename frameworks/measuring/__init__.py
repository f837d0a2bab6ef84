"""What the nodes of a cluster can do, measured without training: devices, disks, and the links between them.

    python -m frameworks.measuring.run CASE_FILE TASK

It runs in PyTorch's environment, whose transports are those that the ranks of a sweep speak over.
"""
