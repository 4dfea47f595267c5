# docker build --build-arg BUILD_THREADS=22 -t asrswitch .
# docker run --rm -v "$PWD/results:/results" asrswitch --iters 50
# `make image-test` builds and runs all of this without Docker or a registry; see CONTRIBUTING.md.

# Any Debian from 12 on: Python, the C library and valgrind are then of one distribution, with its security updates.
# A digest (debian@sha256:...) makes the base the same for ever.
ARG BASE=debian:bookworm-slim

FROM ${BASE} AS build
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends g++ python3-venv \
 && rm -rf /var/lib/apt/lists/*
ARG BUILD_THREADS=2
# The time in files that are made here; with it, compiled Python is checked by content and not by time.
ARG SOURCE_DATE_EPOCH=0
COPY . /source
# The dependencies' own tests, a fifth of them, go.
RUN python3 -m venv /tools \
 && python3 -m venv --without-pip /opt/asrswitch \
 && BUILD_THREADS=${BUILD_THREADS} SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH} \
    /tools/bin/pip --python /opt/asrswitch/bin/python install --no-cache-dir /source \
 && find /opt/asrswitch -type d -name tests -prune -exec rm -r {} +

FROM ${BASE}
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends libstdc++6 python3 valgrind \
 && apt-get clean \
 && rm -rf /var/lib/apt/lists/* /var/cache/ldconfig/aux-cache /var/log/apt /var/log/dpkg.log /var/log/alternatives.log \
 && useradd --uid 1000 --create-home asrswitch \
 && install -d -m 1777 /models /results
COPY --from=build /opt/asrswitch /opt/asrswitch
ENV PATH=/opt/asrswitch/bin:${PATH} \
    ASRSWITCH_MODELS=/models

# Everybody's to write, so that `--user` may be anyone. Logs lie in /results/runs, fetched models in /models.
VOLUME ["/models", "/results"]
WORKDIR /results
USER 1000:1000

# A run writes to its log in every phase, and no phase may take longer than 10 minutes unless --timeout says so:
# none of the logs written to since the container began (/dev is as old) for half an hour is a run that hangs.
# Looking at files costs the measurement nothing; a Python started beside it would.
HEALTHCHECK --interval=5m --timeout=10s CMD \
  test -z "$(find /results -name run.jsonl -newer /dev)" || test -n "$(find /results -name run.jsonl -mmin -30)"

ARG BASE
ARG VERSION=0.1.0
ARG SOURCE=
LABEL org.opencontainers.image.title="asrswitch" \
      org.opencontainers.image.description="What it costs to switch speech-recognition models on a CPU, and whether the memory comes back" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.base.name="${BASE}"

# Defaults that `docker run -e` may give: INFERENCE_THREADS, CONTEXT_LENGTH, ASR_LANGUAGE.
ENTRYPOINT ["asrswitch"]
CMD ["--iters", "50"]
