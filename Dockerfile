# An image for machines with NVIDIA GPUs: Python 3.12 and the torch, CUDA and Transformer Engine
# that come with the base image. It has not been built yet, and nothing here has run on a GPU.
ARG BASE_IMAGE=nvcr.io/nvidia/pytorch:26.05-py3
FROM ${BASE_IMAGE}

WORKDIR /opt/megatron-longrlvr
COPY . .
# The base image's constraints keep its own torch in place.
RUN python -m pip install --no-cache-dir ".[megatron]"

WORKDIR /workspace
ENTRYPOINT ["longrlvr"]
