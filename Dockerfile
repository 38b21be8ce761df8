# An image for machines with NVIDIA GPUs, Hopper or later:
#
#     docker build --tag longrlvr .
#
# Compiler, CUDA and network libraries are the base image's. torch is not: vLLM is compiled for one
# release of torch, and learner and engine share a process. So all of Python lies in an environment
# of its own, /opt/longrlvr, with the torch that vLLM names; the base's own is out of sight there.
# Transformer Engine's torch extension and Apex are compiled for that torch, which is why the base
# must have CUDA 13.0: Apex refuses any other.
ARG BASE_IMAGE=nvcr.io/nvidia/pytorch:25.11-py3

FROM ${BASE_IMAGE} AS build

# GPUs to compile for: Hopper and Blackwell. Each job takes some GiB of memory.
ARG CUDA_ARCHS="9.0;10.0"
ARG MAX_JOBS=4
ENV VIRTUAL_ENV=/opt/longrlvr \
    PATH=/opt/longrlvr/bin:${PATH} \
    CUDA_HOME=/usr/local/cuda \
    TORCH_CUDA_ARCH_LIST=${CUDA_ARCHS} \
    # the base holds every pip to its own versions
    PIP_CONSTRAINT= \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore

RUN /usr/bin/python3 -m venv --without-pip "${VIRTUAL_ENV}" \
    && /usr/bin/python3 -m pip --python "${VIRTUAL_ENV}/bin/python" install --no-deps pip==26.3

WORKDIR /build
COPY launch/requirements-gpu.txt ./
RUN python -m pip install --no-deps --only-binary :all: -r requirements-gpu.txt

# Apart, so that a change of one leaves the other as it was built. Headers come from the packages
# whose libraries are loaded later, not from the base.
# hadolint ignore=DL3059
RUN NVTE_FRAMEWORK=pytorch NVTE_BUILD_USE_NVIDIA_WHEELS=1 MAX_JOBS=${MAX_JOBS} \
    python -m pip install --no-deps --no-build-isolation transformer-engine-torch==2.20.2
# hadolint ignore=DL3059
RUN APEX_CPP_EXT=1 APEX_CUDA_EXT=1 MAX_JOBS=${MAX_JOBS} \
    python -m pip install --no-deps --no-build-isolation \
    "apex @ git+https://github.com/NVIDIA/apex@6424da3b4faa6c8f062da4a48c424fff3f02d42d"

COPY pyproject.toml README.md LICENSE ./
COPY megatron_longrlvr megatron_longrlvr
COPY launch launch
RUN python -m pip install --no-deps --no-build-isolation .

FROM ${BASE_IMAGE}

ENV VIRTUAL_ENV=/opt/longrlvr \
    PATH=/opt/longrlvr/bin:${PATH} \
    PYTHONUNBUFFERED=1
COPY --from=build /opt/longrlvr /opt/longrlvr

# The base may have a user 1000 of its own. Pyxis and Apptainer run as whoever submits the job.
RUN useradd --create-home --uid 10001 --shell /bin/bash longrlvr
USER 10001
WORKDIR /home/longrlvr

# Where no driver is at hand, a stub of it lets everything be imported.
RUN ln -s /usr/local/cuda/lib64/stubs/libcuda.so libcuda.so.1 \
    && LD_LIBRARY_PATH="${PWD}:${LD_LIBRARY_PATH}" python -m launch.smoke_test \
        torch megatron.core transformer_engine.pytorch apex.optimizers vllm \
    && rm libcuda.so.1

ENTRYPOINT ["longrlvr"]
CMD ["--help"]
