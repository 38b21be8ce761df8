"""What must differ for megatron-core to run without CUDA."""
