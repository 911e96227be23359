#!/bin/sh
# Makes the secrets of compose.yaml in the folder `secrets`, and leaves alone those that are there.
# Compose hands the files on as they are, with their owner and mode, and the containers' users are not this one: so
# all may read the files, but only their owner may enter the folder.
set -eu
cd "$(dirname "$0")/.."
mkdir -p -m 700 secrets
umask 022
if [ ! -s secrets/postgres_password ]; then openssl rand -hex 24 >secrets/postgres_password; fi
if [ ! -s secrets/database_url ]; then
  echo "postgresql://tertulia:$(cat secrets/postgres_password)@database/tertulia" >secrets/database_url
fi
if [ ! -s secrets/secret_key ]; then openssl rand -base64 48 >secrets/secret_key; fi
if [ ! -s secrets/metrics_token ]; then openssl rand -hex 24 >secrets/metrics_token; fi
