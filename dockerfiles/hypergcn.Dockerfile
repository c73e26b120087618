# Hyper-GCN. Built from the repository root, after the base:
#
#   docker build -t skeleton-lab:hypergcn -f dockerfiles/hypergcn.Dockerfile .
#   docker run --rm --gpus all skeleton-lab:hypergcn python3 main.py --help
ARG COMMON_IMAGE=skeleton-lab:base
FROM ${COMMON_IMAGE}
LABEL org.opencontainers.image.description="Hyper-GCN of Skeleton Action Lab" \
      org.skeleton-lab.model="hypergcn"
USER 0:0
COPY models/hypergcn /workspace/models/hypergcn
RUN chmod -R a+rX /workspace/models \
    && python3 -m compileall -q --invalidation-mode checked-hash /workspace/models
USER 10001:10001
WORKDIR /workspace/models/hypergcn
CMD ["python3", "main.py", "--help"]
