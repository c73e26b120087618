# Baselines. Built from the repository root, after the base:
#
#   docker build -t skeleton-lab:baselines -f dockerfiles/baselines.Dockerfile .
#   docker run --rm --gpus all skeleton-lab:baselines python3 main.py --help
ARG COMMON_IMAGE=skeleton-lab:base
FROM ${COMMON_IMAGE}
LABEL org.opencontainers.image.description="Baselines of Skeleton Action Lab" \
      org.skeleton-lab.model="baselines"
USER 0:0
COPY models/baselines /workspace/models/baselines
RUN chmod -R a+rX /workspace/models \
    && python3 -m compileall -q --invalidation-mode checked-hash /workspace/models
USER 10001:10001
WORKDIR /workspace/models/baselines
CMD ["python3", "main.py", "--help"]
