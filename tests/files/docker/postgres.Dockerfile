# Stands in for the official image where no image registry is reached: Debian's PostgreSQL, the same user, variables,
# paths and order of things at the first start.
ARG BASE
# hadolint ignore=DL3006
FROM ${BASE}
RUN apt-get update \
    && apt-get install -y --no-install-recommends postgresql \
    && rm -rf /var/lib/apt/lists/* /var/lib/postgresql/* \
    && usermod --uid 70 postgres && groupmod --gid 70 postgres \
    && install -d -o 70 -g 70 -m 1777 /var/lib/postgresql/data \
    && ln -s /usr/lib/postgresql/*/bin/* /usr/local/bin/
COPY postgres.sh /usr/local/bin/stand-in
ENTRYPOINT ["sh", "/usr/local/bin/stand-in"]
