# Training on a GPU, and GPU workers for `codebook` and `tokenize` (their driver, then, too: workers
# and driver must have the same libraries). The host brings the driver, and NVIDIA's container
# toolkit; torch's wheels bring CUDA 13 and want a driver from 580 up.
#
#   docker build -f docker/train.Dockerfile -t audiolex-train .
#   docker run --rm --gpus all -v runs:/app/runs audiolex-train \
#       python -m train fit configs/audioset-bert.yaml
#
# Tried: hadolint, and the install steps and what they installed, in a plain venv
# (tests/test_docker). Not tried: a build, there was no container engine to do it.
FROM python:3.11-slim AS packages

ENV PIP_NO_CACHE_DIR=1 \
    UV_NO_CACHE=1 \
    UV_COMPILE_BYTECODE=1

WORKDIR /app
COPY pyproject.toml constraints.txt ./
RUN pip install --constraint constraints.txt uv
RUN python -m venv --without-pip /opt/venv \
    && uv pip install --python /opt/venv/bin/python --constraint constraints.txt \
        --requirements pyproject.toml --extra train --extra cluster

FROM python:3.11-slim

# As in worker.Dockerfile. Versions are those of the base image's Debian.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends flac tini \
    && rm -rf /var/lib/apt/lists/*

# New volumes on runs and /keys take over the owner of these directories.
RUN useradd --create-home --uid 1000 worker \
    && install --directory --owner=worker --mode=0700 /keys \
    && install --directory --owner=worker /app/runs

COPY --from=packages /opt/venv /opt/venv
WORKDIR /app
COPY docker/healthy.py docker/dask.yaml docker/
COPY configs/ configs/
COPY shards/ shards/
COPY cluster/ cluster/
COPY pipeline/ pipeline/
COPY train/ train/

# `utility` is nvidia-smi, by which docker/healthy.py sees that the GPU is still there.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONPATH=/app \
    DASK_CONFIG=/app/docker/dask.yaml \
    PYTHONUNBUFFERED=1 \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 1000
HEALTHCHECK --interval=30s --timeout=15s --start-period=60s CMD ["python", "docker/healthy.py"]
ENTRYPOINT ["tini", "--"]
CMD ["python", "-m", "train", "--help"]
