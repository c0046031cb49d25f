"""One example per section of the language, and prose about some: the reference page shows them, tests load them."""

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
  from_host: true # and those that podman, containerd or Docker have on this host
""",
    "images": """\
images:
  base: debian:bookworm
  app: {pull: registry.example.com/shop/app:1.4, pull_policy: always, platform: linux/amd64}
  web:
    pull: registry.example.com/shop/web # no tag: it is picked
    track: {semver: ">=1.4 <2", min_age: 3d}
  nightly: {pull: registry.example.com/shop/nightly, track: {pattern: "[0-9]{8}", newest: 1}}
  db: # a pin, which `reconciler update --write` moves
    pull: registry.example.com/shop/db:16.2@sha256:3f5b8d1c7a904e26b1d07c58e2f49a6310b7c4d5e8f2a1936c0d4b7e5a8f1c92
    track: {semver: ^16}
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
    entrypoint: [/docker-entrypoint.sh]
    command: nginx -g 'daemon off;'
    environment: {LOG: info, WORKERS: 4, VERBOSE: "true"}
    env_file: [{path: ./local.env, required: false}]
    user: "101:101"
    working_dir: /srv
    ports: ["127.0.0.1:8080:80", "9000-9001:9000-9001/udp", {target: 443, published: 8443}]
    volumes:
      - data:/var/lib/app                 # a volume
      - ./conf:/etc/app:ro                # a path beside the spec file
      - {type: tmpfs, target: /tmp}
    networks: [front]
    secrets: [db_password]
    configs: [{source: motd, target: /etc/motd}]
    depends_on: {writer: {condition: service_completed_successfully}}
    restart: always
    init: true
    labels: {team: shop}
    mem_limit: 512m
    stop_signal: SIGQUIT
    stop_grace_period: 30s
    pull_policy: newer
    state: running
""",
    "syncs": """\
syncs:
  registry.example.com/mirror/debian:
    from: docker.io/library/debian
    tags: {allow: ["bookworm.*"], deny: [".*-backports"], newest: 5, min_age: 1d}
    platforms: [linux/amd64, linux/arm64]
  registry.example.com/mirror/tools:
    from: registry.example.com/build/tools
    tags: {semver: ">=1.4 <2"}
    prune: {protect: ["keep-.*"], max_delete_share: 0.5}
    interval: 15m
  registry.example.com/mirror/alpine:
    from: alpine
    tags: ["3.20", edge]
    referrers: false
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

NOTES = {
    "hosts": """\
Labels that a host must have, all of them; other hosts skip this file. Left out: every host. A host's labels come from
`--label NAME=VALUE` and the file `host.yaml` in its root.
""",
    "tags": """\
Tags, by reference, each on an entry of `images` or on another reference. A tag stays on this host unless it is pushed.
Leaving the specs takes a tag from the host, never from a registry.
""",
    "registries": """\
How to reach registries, by host: `HOST` or `HOST:PORT`. A registry that is not listed is reached over HTTPS with the
credentials of `reconciler login`, docker or podman, if there are any. These are facts of the host: two stacks may both
state them only when they agree.
""",
    "mirrors": """\
Mirrors of a registry, by its host; `*` is every registry not named. Bytes come from the mirrors in order and then from
the origin. What a tag points at is for the origin to say while it answers, unless `resolve` says otherwise. Facts of
the host, as registries are; a mirror's own credentials stand under `registries` for its host.

`from_host: true` takes over what this host's own files say, read at every plan: `/etc/containers/registries.conf` with
its drop-ins, `/etc/containerd/certs.d/*/hosts.toml`, and `registry-mirrors` of `/etc/docker/daemon.json`
(`registries_conf`, `certs_d` and `daemon_json` in ROOT/host.yaml name other places). For each registry the first file
that has a rule counts, and a registry declared under `mirrors` is the spec's alone, whatever the files say. A change of
a file is a change in the plan, which names the file; a file that is wrong is an error before anything is done.

| there | here |
|---|---|
| a mirror of `registries.conf` or Docker; a host with `resolve` | `resolve: first`: there, mirrors are asked for tags |
| `mirror-by-digest-only`, `pull-from-mirror: digest-only`; a host without `resolve` | `resolve: never` |
| `pull-from-mirror: tag-only` | `resolve: first`; it is also asked for the bytes of what it named |
| a host listed below the registry itself | `resolve: fallback` |
| `insecure` of a mirror | plain HTTP, without any login; never TLS that nobody verifies |
| `blocked` | nothing is pulled from, pushed to or copied from that registry |
| `ca`, `client` | `tls` for that host, where nothing is declared for it under `registries` |

The rest is left out with a note in the plan: rules for a part of a registry or a pattern, another `location` or
`server`, `skip_verify`, `header`, `insecure` of a registry itself, paths that cannot be asked for. A block of less than
a registry is an error. Logins never come from these files.
""",
    "images": """\
Images that the host should have, each from one source: pulled, imported from a root filesystem, loaded from an archive,
or committed from a container. Containers and tags use them by name. An image that a container names by reference alone
needs no entry.

With `track`, the tags of the repository are listed at every plan, and the newest that fits is the image: the highest
version with `semver` or where all that fit are versions, else the last by name, numbers in names compared as numbers. A
tag may begin with `v` and leave out parts: `1.4` counts as 1.4.0. Ranges are npm's: `>=1.4 <2`, `^1.2`, `~1.2.3`,
`1.x`, `1.2 - 1.4`, `!=1.5.2`, `||`. What follows a hyphen counts as a prerelease, which a range takes only when it
names one: `>=1.4-0` takes all from 1.4 on, also `1.4.2-alpine`; there `-r9` comes before `-r10`. Patterns are RE2's.
`min_age` counts from when this host first saw the tag with its digest, while an apply or the daemon ran and never by
the image's own date: a new host knows no tag yet, and waits, unless `pull` is a pin. An image stays what it is while
the tags cannot be listed, or only tags that are older than its own are old enough. One that is nothing yet is the
newest of those on disk while they cannot be listed.

A `pull` of `NAME:TAG@DIGEST` is a pin: that image until the text changes. `reconciler update` asks each registry, never
a mirror, what pins should say now: the tag that `track` picks or, without `track`, what their own tag points at. Pins
of containers, services and tags count, too. It lists them; `--diff` prints a patch; `--write` writes them into the spec
files, where nothing else changes. An image with `track` and no pin gets one; its `track` stays, for the next time. A
reference that is made of variables is not written, nor one that an anchor shares with something else: that is an error
with its place, and the others are done. With `min_age` it goes by the tags that this host has seen, which `--write`
notes, and a pin stays while only its age keeps its tag from being picked. So a machine with a new root, such as one
that makes pull requests and is thrown away, moves no pin that has `min_age`: run it where the root is kept.
""",
    "syncs": """\
Copies from one repository to another, by the one that receives them. Nothing is stored on this host: blobs are mounted
where both are at one registry, else streamed through, each once, and verified on the way. A tag is written when all
that it names is there. What somebody else writes under a chosen tag at the target is put right again; other tags there
are left alone unless `prune` says otherwise. A tag that shares its manifest with one that stays, stays too. Leaving the
specs changes neither repository. A manifest that is no index is copied whatever `platforms` says. A signature that is
made after its image was copied is seen where it is a tag `sha256-...`, as cosign makes them; one that only the
registry lists goes along when the tag is copied again.
""",
    "networks": """\
Bridge networks of the stack. A container that names none joins the stack's network `default`, which needs no entry.
""",
    "volumes": """\
Volumes of the stack: data that outlives containers, and is kept when the entry leaves the specs.
""",
    "secrets": """\
Secrets that containers may use, as files. Their values are never printed, and never part of a plan.
""",
    "configs": """\
Small files that containers may use. A change of the content replaces the containers that use it.
""",
    "containers": """\
Containers, by name. With `restart` left out, `always` or `unless-stopped`, a container is a service and kept running.
With `restart: "no"` or `on-failure` it is a job: it runs once for each spec and image, and is done when it exits 0.
Taking an entry out removes the container.
""",
    "services": """\
A file without `apiVersion` that has `services` is a compose file; its services become containers of the same names,
with the fields of [Container](#container). What cannot be honoured is an error that names the field. The stack is
`name`, else the directory's name; two directories of one name need a `name` in at least one of them. Files are not
merged field by field: an override file that declares a service again is an error.
""",
}
