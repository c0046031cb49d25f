"""One example per section of the language, shown on the reference page and validated by a test."""

from __future__ import annotations

EXAMPLES = {
    "hosts": "hosts: {role: web}\n",
    "registries": """\
registries:
  registry.example.com:
    auth: {username: ci, password: {file: /run/secrets/registry}}
    tls: {ca: ./ca.pem}
  127.0.0.1:5000: {plain_http: true}
""",
    "mirrors": """\
mirrors:
  docker.io:
    - http://127.0.0.1:5001
    - {url: https://mirror.example.com, resolve: first}
""",
    "images": """\
images:
  base: debian:bookworm
  app: {pull: registry.example.com/shop/app:1.4, pull_policy: always, platform: linux/amd64}
  tools: {import: ./rootfs.tar.gz, config: {cmd: [sh]}}
  legacy: {load: {file: ./images.tar, ref: legacy:1}}
  message:
    commit: {container: writer, author: Jordan Bach, message: saved my message}
""",
    "tags": """\
tags:
  registry.example.com/shop/message:v0.0.1: message
  registry.example.com/shop/message:latest: {image: message, push: true}
  registry.example.com/shop/message:v1.0.0: {image: message, push: {overwrite: never}}
""",
    "networks": """\
networks:
  front: {subnet: 10.80.0.0/24}
  back:
""",
    "volumes": """\
volumes:
  data:
  media: {external: true}
""",
    "secrets": """\
secrets:
  db_password: {file: /run/secrets/db}
  api_token: {environment: API_TOKEN}
""",
    "configs": """\
configs:
  motd: {content: "hello"}
  nginx: {file: ./nginx.conf}
""",
    "containers": """\
containers:
  writer:
    image: debian:bookworm
    command: [sh, -c, "echo hello docker > /message.txt"]
    restart: "no"
  web:
    image: nginx:1.27
    environment: {LOG: info}
    ports: ["127.0.0.1:8080:80"]
    volumes: ["data:/var/lib/app", "./conf:/etc/app:ro"]
    networks: [front]
    secrets: [db_password]
    configs: [{source: motd, target: /etc/motd}]
    depends_on: {writer: {condition: service_completed_successfully}}
    mem_limit: 512m
    stop_grace_period: 30s
""",
    "retention": """\
retention:
  images: {keep_generations: 3, unused_for: 7d}
  containers: {exited_for: 24h}
""",
    "services": """\
name: shop
services:
  web:
    image: nginx:1.27
    ports: ["8080:80"]
    restart: on-failure:3
""",
}
