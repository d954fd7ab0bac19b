# compress in a container. FLAVOR chooses what it runs on:
#
#   docker build --build-arg FLAVOR=cpu  -t compress:cpu  .   # slim; every target can be planned, `cpu` measured
#   docker build --build-arg FLAVOR=gpu  -t compress:gpu  .   # TensorRT 10.9, CUDA 12.8: compute capability 7.5 and up
#   docker build --build-arg FLAVOR=v100 -t compress:v100 .   # TensorRT 10.4, CUDA 12.6: the last for Volta
#
#   docker run --rm --gpus all -v "$PWD:/work" compress:v100 profile path/to/model --target v100 --output v100.json
#
# docs/gpu.md says which of these have been built and run. Nothing secret goes in: no build argument holds a credential,
# and .dockerignore keeps everything out that is not listed there.
ARG FLAVOR=cpu

FROM python:3.11.13-slim-bookworm AS base-cpu
ENV RUNTIME="onnxruntime==1.31.1"

# ONNX Runtime releases are built against one release of TensorRT each. Source: its documentation, "TensorRT Execution
# Provider", requirements: 1.22 with TensorRT 10.9 and CUDA 12.8, 1.20 with TensorRT 10.4 and CUDA 12.6.
FROM nvcr.io/nvidia/tensorrt:25.03-py3 AS base-gpu
ENV RUNTIME="onnxruntime-gpu==1.22.0 tensorrt-cu12==10.9.0.34 polygraphy==0.53.6 cuda-bindings>=12.8,<13"

# TensorRT 10.5 removed Volta (its release notes: "NVIDIA Volta support (GPUs with compute capability 7.0) has been
# removed starting with TensorRT 10.5"), CUDA 13 did too: this one stays where it is.
FROM nvcr.io/nvidia/tensorrt:24.09-py3 AS base-v100
ENV RUNTIME="onnxruntime-gpu==1.20.1 tensorrt-cu12==10.4.0 polygraphy==0.53.6 cuda-bindings>=12.6,<13"

# hadolint ignore=DL3006
FROM base-${FLAVOR} AS final
# torch only prepares the model, on the processor: its CUDA build would bring several GB that nothing here uses, and its
# current one has left Volta behind.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    VIRTUAL_ENV=/opt/compress \
    PATH=/opt/compress/bin:$PATH \
    HOME=/home/compress
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# An environment of its own: the NVIDIA images come with packages that must not be mixed in.
RUN python3 -m venv /opt/compress \
    && useradd --uid 10001 --create-home --home-dir /home/compress compress

# What changes seldom comes first. Versions are those of the test suite; the runtime is pinned above.
WORKDIR /src
COPY constraints.txt ./
RUN grep -v '^onnxruntime==' constraints.txt > /tmp/constraints.txt \
    && pip install --index-url "${TORCH_INDEX}" --extra-index-url https://pypi.org/simple -c /tmp/constraints.txt torch==2.13.0 \
    && echo "${RUNTIME}" | tr ' ' '\n' > /tmp/runtime.txt \
    && pip install -c /tmp/constraints.txt -r /tmp/runtime.txt
COPY pyproject.toml README.md LICENSE ./
COPY compress ./compress
COPY export ./export
COPY profile ./profile
COPY configs ./configs
RUN pip install -c /tmp/constraints.txt /src \
    && compress --version \
    && rm /tmp/constraints.txt /tmp/runtime.txt

# The user made above, by number, which hosts and orchestrators can check.
USER 10001
WORKDIR /work
ENTRYPOINT ["compress"]
CMD ["--help"]
