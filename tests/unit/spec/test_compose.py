"""Compose files as people have them: what they say is read, and what cannot be honoured is named."""

from __future__ import annotations

from ipaddress import IPv4Network

import pytest

from reconciler.model.address import Address
from reconciler.model.resources import Network
from reconciler.spec.errors import SpecError
from reconciler.spec.load import load_specs

WORDPRESS = """\
services:
  db:
    image: mariadb:10.6.4-focal
    command: '--default-authentication-plugin=mysql_native_password'
    volumes:
      - db_data:/var/lib/mysql
    restart: always
    environment:
      - MYSQL_ROOT_PASSWORD=somewordpress
      - MYSQL_DATABASE=wordpress
    expose:
      - 3306
      - 33060
  wordpress:
    image: wordpress:latest
    container_name: wp
    ports:
      - 80:80
    restart: always
    environment:
      - WORDPRESS_DB_HOST=db
volumes:
  db_data:
"""

NGINX = """\
version: "3.8"
services:
  web:
    image: "nginx:1.25-alpine"
    ports:
      - target: 80
        published: 8080
        protocol: tcp
        mode: host
      - target: 443
        published: "8443"
        app_protocol: https
    volumes:
      - type: bind
        source: ./nginx.conf
        target: /etc/nginx/nginx.conf
        read_only: true
      - type: volume
        source: html
        target: /usr/share/nginx/html
        volume:
          nocopy: true
      - type: tmpfs
        target: /tmp
    networks:
      - front
    deploy:
      replicas: 2
networks:
  front:
    driver: bridge
    ipam:
      driver: default
      config:
        - subnet: 172.28.0.0/16
volumes:
  html:
    driver: local
"""

APP = """\
name: app
x-common: &common
  restart: unless-stopped
  stop_grace_period: 1m30s
  x-note: shared
services:
  app:
    <<: *common
    image: registry.example.com/app:${TAG:-1.0}
    env_file:
      - app.env
      - path: ./local.env
        required: false
    environment:
      DATABASE_URL: postgres://app@db/app
      PORT: 3000
    depends_on:
      db:
        condition: service_healthy
      migrate:
        condition: service_completed_successfully
        required: true
    tty: false
    privileged: false
    ports: ["${PORT:-3000}:3000"]
    user: 1000:1000
    init: true
  migrate:
    image: registry.example.com/app:${TAG:-1.0}
    command: ["npm", "run", "migrate"]
    restart: "no"
  db:
    <<: *common
    image: postgres:16
    mem_limit: 512M
"""


@pytest.mark.parametrize(
    ("text", "unsupported", "containers"),
    [
        (WORDPRESS, {"container_name"}, {"db", "wordpress"}),
        (NGINX, {"volumes[1].volume", "deploy"}, {"web"}),
        (APP, {"depends_on.db.condition: service_healthy"}, {"app", "migrate", "db"}),
    ],
)
def test_files_that_people_paste(here, text, unsupported, containers):
    (here / "compose.yaml").write_text(text)
    (here / "app.env").write_text("A=1\n")
    desired = load_specs(["compose.yaml"])
    assert {item.field for item in desired.unsupported} == unsupported
    assert {a.short for a in desired.resources if a.kind == "container"} == containers


def test_warnings_point_at_the_entry_of_a_list(here):
    (here / "compose.yaml").write_text(WORDPRESS)
    (warning,) = load_specs(["compose.yaml"]).warnings
    assert warning.startswith("compose.yaml:9:9: the value of MYSQL_ROOT_PASSWORD")


def test_a_subnet_as_compose_writes_it(load):
    resources = load("networks: {n: {ipam: {config: [{subnet: 10.9.0.0/24}]}}}").resources
    assert resources[Address("network", "shop/n")] == Network(IPv4Network("10.9.0.0/24"))


@pytest.mark.parametrize(
    ("network", "what"),
    [
        ("{subnet: 10.0.0.0/24, ipam: {config: [{subnet: 10.1.0.0/24}]}}", "a network takes one subnet"),
        ("{ipam: {config: [{subnet: 10.0.0.0/24}, {subnet: 10.1.0.0/24}]}}", "a network takes one subnet"),
        ("{external: true, ipam: {config: [{subnet: 10.1.0.0/24}]}}", "has its subnet already"),
        ("{ipam: {config: [{subnet: 10.0.0.5/24}]}}", r"ipam\.config\[0\]\.subnet: malformed subnet"),
    ],
)
def test_subnets_refused(load, network, what):
    with pytest.raises(SpecError, match=what):
        load(f"networks: {{n: {network}}}")


@pytest.mark.parametrize(
    "fields", ["tty: true", "privileged: true", "scale: 2", "read_only: true", "ports: [{target: 80, mode: foo}]"]
)
def test_only_the_value_that_changes_nothing_is_fine(load, fields):
    assert load(f"containers: {{a: {{image: x/y, {fields}}}}}").unsupported


@pytest.mark.parametrize("port", ["0", "x", "80/sctp", "[80]"])
def test_exposed_ports_are_checked(refuse, port):
    assert "expose[0]" in refuse(f"containers: {{a: {{image: x/y, expose: [{port}]}}}}")


def test_two_directories_that_imply_one_stack(here):
    for parent in ("prod", "staging"):
        (here / parent / "web").mkdir(parents=True)
        (here / parent / "web/compose.yaml").write_text(f"services: {{{parent}: {{image: x/y}}}}\n")
    with pytest.raises(SpecError, match="stack 'web' is named after this file's directory"):
        load_specs(["."], recursive=True)
    (here / "prod/web/compose.yaml").write_text("name: web\nservices: {prod: {image: x/y}}\n")
    assert load_specs(["."], recursive=True).stacks == {"web"}


def test_files_of_other_programs_are_named(here):
    (here / "compose.yaml").write_text("services: {a: {image: x/y}}\n")
    (here / "pod.yaml").write_text("apiVersion: v1\nkind: Pod\nmetadata: {name: x}\n")
    (here / "prometheus.yml").write_text("global: {scrape_interval: 15s}\n")
    with pytest.raises(SpecError) as caught:
        load_specs(["."])
    assert [str(problem.location) for problem in caught.value.problems] == ["pod.yaml:1:13", "prometheus.yml:1:1"]
