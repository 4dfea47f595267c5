# docker build --build-arg BUILD_THREADS=4 -t asrswitch .
# docker run --rm asrswitch --iters 50
# docker run --rm -v "$PWD/models:/models:ro" -v "$PWD/runs:/runs" asrswitch --iters 50 --model 0.6B=/models/0.6b.bin --model 1.7B=/models/1.7b.bin

FROM python:3.12-slim-bookworm AS build
RUN apt-get update \
 && apt-get install -y --no-install-recommends g++ \
 && rm -rf /var/lib/apt/lists/*
ARG BUILD_THREADS=2
ENV BUILD_THREADS=${BUILD_THREADS}
COPY . /source
RUN pip wheel --no-cache-dir --wheel-dir /wheels /source

FROM python:3.12-slim-bookworm
RUN apt-get update \
 && apt-get install -y --no-install-recommends libstdc++6 valgrind \
 && rm -rf /var/lib/apt/lists/*
COPY --from=build /wheels /wheels
RUN pip install --no-cache-dir --no-index --find-links /wheels asrswitch \
 && rm -rf /wheels \
 && useradd --create-home asrswitch \
 && install -d -o asrswitch -g asrswitch /runs
USER asrswitch
WORKDIR /
# Defaults that `docker run -e` may change: INFERENCE_THREADS, CONTEXT_LENGTH, ASR_LANGUAGE.
ENTRYPOINT ["python", "-m", "asrswitch"]
CMD ["--iters", "50"]
