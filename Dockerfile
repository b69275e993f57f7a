# Vitrail on CPUs, from the package index alone: docker build -t vitrail .
# Slides and results lie outside: docker run --rm -v "$PWD:/work" vitrail predict slides/A.svs --classifier models/classifier -o maps
# With GPUs the same image works where the host has NVIDIA's container toolkit: docker run --gpus all ...
ARG BASE=python:3.13-slim
FROM ${BASE} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
COPY . .
# the build hook fetches the viewer's page by its lock file; Node comes from the package index where it is missing
RUN python3 -m venv /opt/vitrail \
    && /opt/vitrail/bin/pip install -q -c constraints.txt ".[openvino,viewer,cluster]" \
    && /opt/vitrail/bin/vitrail --version

FROM ${BASE}
COPY --from=build /opt/vitrail /opt/vitrail
# caches (compiled networks, what was measured on this machine) may be kept by a volume at /cache
ENV PATH=/opt/vitrail/bin:$PATH XDG_CACHE_HOME=/cache MPLCONFIGDIR=/cache/matplotlib
RUN mkdir -p /cache && chmod 1777 /cache && useradd --create-home vitrail
USER vitrail
WORKDIR /work
ENTRYPOINT ["vitrail"]
CMD ["--help"]
