# Two images: `runtime`, the robot's, with ONNX Runtime and no torch, and `train`, which has torch, the simulators and the
# exporter as well. Neither runs as root. The last stage names the default.
#   docker build --tag msr-runtime .                            CPU
#   docker build --tag msr-runtime --build-arg DEVICE=gpu .     NVIDIA GPU, with its CUDA libraries; run it with --gpus all
#   docker build --tag msr-train --target train .
# Nothing here needs more than Docker's classic builder, so that the Docker of an older robot builds it too.
ARG BASE=python:3.11-slim-bookworm

# Packages and code are installed apart: an update of the code is one small layer.
FROM ${BASE} AS packages
ARG DEVICE=cpu
WORKDIR /src
COPY pyproject.toml docker/constraints.txt docker/requirements.py ./
RUN python -m venv --without-pip /opt/msr \
    && python requirements.py "${DEVICE}" serve log sign > requirements.txt \
    && pip --python /opt/msr/bin/python install --no-cache-dir --constraint constraints.txt --requirement requirements.txt \
    && pip --python /opt/msr/bin/python check

FROM packages AS train-packages
RUN python requirements.py train > requirements.txt \
    && pip --python /opt/msr/bin/python install --no-cache-dir --constraint constraints.txt --requirement requirements.txt \
    && pip --python /opt/msr/bin/python check

FROM ${BASE} AS code
WORKDIR /src
COPY docker/constraints.txt ./
RUN python -m venv --without-pip /opt/msr && pip install --no-cache-dir --constraint constraints.txt hatchling
COPY pyproject.toml README.md ./
COPY msr_runtime msr_runtime
COPY envs envs
COPY export export
COPY docker/health.py ./
RUN hatchling build --target wheel \
    && pip --python /opt/msr/bin/python install --no-cache-dir --no-deps --no-index dist/*.whl \
    && install --mode 755 health.py /opt/msr/bin/msr-health

# ONNX Runtime's telemetry writes under the home folder; here the user has none and the root may be read-only.
FROM ${BASE} AS common
ENV PATH=/opt/msr/bin:$PATH \
    OMP_NUM_THREADS=1 \
    ORT_DISABLE_TELEMETRY=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER 10001:10001
ENTRYPOINT ["msr"]
CMD ["--help"]

FROM common AS runtime
COPY --from=packages /opt/msr /opt/msr
COPY --from=code /opt/msr /opt/msr
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s --retries=3 CMD ["msr-health"]

FROM common AS train
COPY --from=train-packages /opt/msr /opt/msr
COPY --from=code /opt/msr /opt/msr
# Matplotlib and torch keep caches.
ENV HOME=/tmp
# What Ctrl-C sends: training then leaves a checkpoint. As a container's first process, Python would not heed SIGTERM.
STOPSIGNAL SIGINT

FROM runtime
