"""Imported once by the process that the ranks are forked from, so that they start in no time."""

from megatron_longrlvr.model.cpu.install import install

install()
