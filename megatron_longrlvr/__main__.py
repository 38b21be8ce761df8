"""``python -m megatron_longrlvr`` is ``longrlvr``; torchrun starts it this way."""

from megatron_longrlvr.cli import main

raise SystemExit(main())
