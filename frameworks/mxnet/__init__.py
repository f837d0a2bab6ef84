"""The MXNet training program: hybridized Gluon."""
