# Two images. `runtime` is the robot's: it has ONNX Runtime and no torch. `train` has torch, the simulators, the
# exporter and what reads logs as well. Neither runs as root. The last stage names the default.
#   docker build --tag msr-runtime .                            CPU
#   docker build --tag msr-runtime --build-arg DEVICE=gpu .     NVIDIA GPU with its CUDA libraries; run with --gpus all
#   docker build --tag msr-runtime --platform linux/arm64 .     a robot with another processor; it needs BuildKit
#   docker build --tag msr-train --target train .
# Nothing else needs more than Docker's classic builder, so that the Docker of an older robot builds it too.
ARG BASE=python:3.11-slim-bookworm
# Stages that run programs are for the processor that builds, so that an image for another one needs no emulator.
# BuildKit sets BUILDPLATFORM and TARGETARCH. To the classic builder, `linux` alone means its own processor.
ARG BUILDPLATFORM=linux

# Packages and code are installed apart: an update of the code is one small layer.
FROM --platform=$BUILDPLATFORM ${BASE} AS packages
ARG DEVICE=cpu
ARG TARGETARCH
# A folder with wheels of your own, below docker/: see docker/wheels/README.md.
ARG WHEELS=docker/wheels
WORKDIR /src
COPY pyproject.toml docker/constraints.txt docker/requirements.py docker/install.sh ./
COPY ${WHEELS} wheels/
RUN python -m venv --without-pip /opt/msr && ./install.sh /opt/msr "${DEVICE}" serve log sign

FROM packages AS train-packages
ARG TARGETARCH
RUN ./install.sh /opt/msr train data

FROM --platform=$BUILDPLATFORM ${BASE} AS code
WORKDIR /src
COPY docker/constraints.txt ./
RUN python -m venv --without-pip /opt/msr && pip install --no-cache-dir --constraint constraints.txt hatchling
COPY pyproject.toml README.md LICENSE ./
COPY msr_runtime msr_runtime
COPY envs envs
COPY export export
COPY docker/health.py ./
RUN hatchling build --target wheel \
    && pip --python /opt/msr/bin/python install --no-cache-dir --no-deps --no-index dist/*.whl \
    && install --mode 755 health.py /opt/msr/bin/msr-health

# The list of an image's packages (SBOM) is written from what is installed, by a tool that the image does not hold.
FROM --platform=$BUILDPLATFORM ${BASE} AS sbom-tool
WORKDIR /src
COPY docker/constraints.txt ./
RUN python -m venv --without-pip /opt/sbom \
    && pip --python /opt/sbom/bin/python install --no-cache-dir --constraint constraints.txt cyclonedx-bom

FROM packages AS runtime-sbom
COPY --from=code /opt/msr /opt/msr
COPY --from=sbom-tool /opt/sbom /opt/sbom
RUN /opt/sbom/bin/cyclonedx-py environment --validate --output-reproducible -o /sbom.cdx.json /opt/msr/bin/python

FROM train-packages AS train-sbom
COPY --from=code /opt/msr /opt/msr
COPY --from=sbom-tool /opt/sbom /opt/sbom
RUN /opt/sbom/bin/cyclonedx-py environment --validate --output-reproducible -o /sbom.cdx.json /opt/msr/bin/python

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
COPY --from=runtime-sbom /sbom.cdx.json /opt/msr/
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s --retries=3 CMD ["msr-health"]

FROM common AS train
COPY --from=train-packages /opt/msr /opt/msr
COPY --from=code /opt/msr /opt/msr
COPY --from=train-sbom /sbom.cdx.json /opt/msr/
# Matplotlib and torch keep caches.
ENV HOME=/tmp
# What Ctrl-C sends: training then leaves a checkpoint. As a container's first process, Python would not heed SIGTERM.
STOPSIGNAL SIGINT

FROM runtime
