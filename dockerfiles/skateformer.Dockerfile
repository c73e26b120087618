# SkateFormer. Built from the repository root, after the base:
#
#   docker build -t skeleton-lab:skateformer -f dockerfiles/skateformer.Dockerfile .
#   docker run --rm --gpus all skeleton-lab:skateformer python3 main.py --help
ARG COMMON_IMAGE=skeleton-lab:base
FROM ${COMMON_IMAGE}
LABEL org.opencontainers.image.description="SkateFormer of Skeleton Action Lab" \
      org.skeleton-lab.model="skateformer"
USER 0:0
COPY models/skateformer /workspace/models/skateformer
RUN chmod -R a+rX /workspace/models \
    && python3 -m compileall -q --invalidation-mode checked-hash /workspace/models
USER 10001:10001
WORKDIR /workspace/models/skateformer
CMD ["python3", "main.py", "--help"]
