# The robot's side alone: the runtime and ONNX Runtime, no torch.
#   docker build -t msr-runtime .                            CPU
#   docker build -t msr-runtime --build-arg EXTRAS=gpu .     NVIDIA GPU; run it with --gpus all
#   docker run --rm -v "$PWD/bundle:/bundle:ro" msr-runtime info /bundle
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
ARG EXTRAS=cpu
WORKDIR /src
COPY pyproject.toml README.md ./
COPY msr_runtime msr_runtime
COPY envs envs
COPY export export
RUN python -m venv /opt/msr && /opt/msr/bin/pip install --no-cache-dir ".[${EXTRAS}]"

FROM ${BASE}
COPY --from=build /opt/msr /opt/msr
# ONNX Runtime's telemetry writes under the home folder; here the user has none and the root may be read-only.
ENV PATH=/opt/msr/bin:$PATH ORT_DISABLE_TELEMETRY=1 PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
ENTRYPOINT ["msr"]
