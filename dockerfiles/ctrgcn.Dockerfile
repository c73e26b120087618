# CTR-GCN. Built from the repository root, after the base:
#
#   docker build -t skeleton-lab:ctrgcn -f dockerfiles/ctrgcn.Dockerfile .
#   docker run --rm --gpus all skeleton-lab:ctrgcn python3 main.py --help
ARG COMMON_IMAGE=skeleton-lab:base
FROM ${COMMON_IMAGE}
LABEL org.opencontainers.image.description="CTR-GCN of Skeleton Action Lab" \
      org.skeleton-lab.model="ctrgcn"
USER 0:0
COPY models/ctrgcn /workspace/models/ctrgcn
RUN chmod -R a+rX /workspace/models \
    && python3 -m compileall -q --invalidation-mode checked-hash /workspace/models
USER 10001:10001
WORKDIR /workspace/models/ctrgcn
CMD ["python3", "main.py", "--help"]
