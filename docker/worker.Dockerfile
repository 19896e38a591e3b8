# A Dask worker's image: decodes, clusters and tokenises; holds no torch.
#
#   docker build -f docker/worker.Dockerfile -t audiolex-worker .
#   docker run --rm -v /data:/data -v "$PWD/runs:/app/runs" audiolex-worker \
#       python -m pipeline shard configs/audioset.yaml source.root=/data
FROM python:3.11-slim

ENV PYTHONUNBUFFERED=1 \
    PIP_NO_CACHE_DIR=1

# libFLAC: without it a FLAC clip takes a third longer.
RUN apt-get update && apt-get install --yes --no-install-recommends flac \
    && rm -rf /var/lib/apt/lists/*

RUN useradd --create-home --uid 1000 worker
WORKDIR /app

# The requirements first: a change of code does not install them again.
COPY pyproject.toml constraints.txt README.md ./
RUN pip install --constraint constraints.txt uv \
    && uv pip install --system --constraint constraints.txt --requirements pyproject.toml

COPY . .
RUN uv pip install --system --no-deps --editable . \
    && mkdir -p runs && chown worker runs

USER worker
CMD ["python", "-m", "pipeline", "--help"]
