#!/usr/bin/env bash
# Proves the Dockerfile without a container engine and without an image registry: builds it, starts it, teaches it, stops it.
#
#   debootstrap ──▶ base image ──▶ buildah build ──▶ the image's own entry point, as its own user, as PID 1,
#   (stands in for                 (Dockerfile        read-only but for /tmp, no capabilities
#    python:3.11-slim)              unchanged)        ──▶ /readyz, adapt, classify, HEALTHCHECK ──▶ SIGTERM ──▶ exit 0
#
# Needs root on Debian; installs buildah, debootstrap and curl where they are missing. The build asks the package index that pip is
# configured for on this machine. Everything lies in one folder, which is removed unless KEEP=1; the base is kept in BASE_CACHE if given.
#
#   TORCH_CPU_INDEX   extra index for torch's CPU wheels; empty where pip finds them already (default: empty)
#   RUNTIME           cpu, gpu or onnx (default: cpu)
#   PORT              port to serve on (default: 18970)
set -euo pipefail

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
work=$(mktemp -d "${TMPDIR:-/tmp}/prove-dockerfile.XXXXXX")
port=${PORT:-18970}
image=kshot:proof
server=

say() { printf '%s\n' "== $*"; }
fail() {
  printf '%s\n' "FAILED: $*" >&2
  [ ! -f "$work/server.log" ] || tail -n 40 "$work/server.log" >&2
  exit 1
}

# The image store is this run's own: no other image on the machine can help or hurt.
store() { buildah --root "$work/store" --runroot "$work/run" --storage-driver overlay "$@"; }

# The process that is PID 1 of the container.
first_process() {
  local pid
  for pid in $(pgrep -P "$server"); do
    if [ "$(awk '/^NSpid/ { print NF == 3 && $3 == 1 }' "/proc/$pid/status")" = 1 ]; then echo "$pid"; return; fi
  done
}

clean_up() {
  # The death of a container's first process ends all of it.
  if [ -n "$server" ]; then kill -KILL "$(first_process)" "$server" 2>/dev/null || true; wait "$server" 2>/dev/null || true; fi
  if [ "${KEEP:-}" = 1 ]; then say "kept: $work"; return; fi
  [ ! -d "$work/store" ] || { store rm --all; store rmi --all --force; } >/dev/null 2>&1 || true
  umount "$work/store/overlay" 2>/dev/null || true
  rm -rf "$work"
}
trap clean_up EXIT

install_tools() {
  [ "$(id -u)" = 0 ] || fail "only root can make a base image and change root into it"
  local missing=()
  for tool in buildah debootstrap curl; do command -v "$tool" >/dev/null || missing+=("$tool"); done
  if [ "${#missing[@]}" -gt 0 ]; then
    say "installing ${missing[*]}"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
  fi
}

# A Debian with Python 3.11, under the name that the Dockerfile starts from.
make_base() {
  local rootfs=${BASE_CACHE:-$work/rootfs} container
  if [ ! -x "$rootfs/usr/bin/python3.11" ]; then
    say "base image from Debian packages"
    debootstrap --variant=minbase --include=ca-certificates,python-is-python3,python3-pip,python3-venv bookworm "$rootfs" \
      >"$work/debootstrap.log" 2>&1 || { tail "$work/debootstrap.log" >&2; fail "debootstrap"; }
  fi
  container=$(store from scratch)
  store add --quiet "$container" "$rootfs" / >/dev/null
  store commit --quiet "$container" docker.io/library/python:3.11-slim-bookworm >/dev/null
  store rm "$container" >/dev/null
}

# What pip on this machine is told (files and variables alike) becomes the build's secret; folders and files it names are lent read-only.
lend_package_index() {
  { echo "[global]"; python3 -m pip config list | sed -n "s/^\(global\|:env:\)\.\([a-z-]*\)='\(.*\)'$/\2 = \3/p" | sort -u -t= -k1,1; } >"$work/pip.conf"
  volumes=()
  local path
  for path in $(grep -oE '(file://)?/[^ ]+' "$work/pip.conf" | sed 's#^file://##' | grep -v '^//' | sed -E 's#^(/[^/]+/[^/]+)/simple/?$#\1#' | sort -u); do
    [ ! -e "$path" ] || volumes+=(--volume "$path:$path:ro")
  done
}

build() {
  say "buildah build"
  # chroot isolation and the host's network: no runtime, no bridge.
  store build --quiet --isolation chroot --network host --format docker --pull-never --secret "id=pip,src=$work/pip.conf" "${volumes[@]}" \
    --build-arg "TORCH_CPU_INDEX=${TORCH_CPU_INDEX-}" --build-arg "RUNTIME=${RUNTIME:-cpu}" --tag "$image" "$repository" >"$work/build.log" 2>&1 \
    || { tail -n 40 "$work/build.log" >&2; fail "the image does not build"; }
  store inspect --type image "$image" | python3 -c "import json, sys; json.dump(json.load(sys.stdin)['Docker']['config'], sys.stdout)" \
    >"$work/config.json"
}

# $1: a Python expression over `config`, the image's configuration.
configured() { python3 -c "import json, sys; config = json.load(open(sys.argv[1])); print($1)" "$work/config.json"; }

check_configuration() {
  [ "$(configured "config['User']")" = 10001:10001 ] || fail "the image does not run as a numbered user"
  # The shell form arrives as a list too, one that begins with /bin/sh -c.
  [ "$(configured "config['Entrypoint'][0]")" = kshot ] || fail "the entry point is not in exec form"
  [ "$(configured "config['Healthcheck']['Test'][0]")" = CMD ] || fail "no HEALTHCHECK in exec form"
}

# Runs a command of the image as a container runtime would: its user, its environment, its root, a process table of its own.
contained() {
  local variables command
  mapfile -t variables < <(configured "'\n'.join(config['Env'])")
  exec unshare --mount --pid --fork --propagation private sh -euc '
    root=$1; shift
    mount --rbind "$root" "$root"; mount -o remount,bind,ro "$root"
    mount -t proc proc "$root/proc"; mount --rbind /dev "$root/dev"; mount -t tmpfs tmpfs "$root/tmp"
    exec setpriv --no-new-privs chroot --userspec=10001:10001 "$root" "$@"' contained "$rootfs" \
    /usr/bin/env -C /tmp -i "${variables[@]}" "KSHOT_PORT=$port" KSHOT_API_KEYS=env:KEYS "KEYS=proof:$key" "$@"
}

start() {
  say "starting the image's entry point"
  ! curl -s -o /dev/null "http://127.0.0.1:$port/" || fail "something answers on port $port already; name another: PORT=..."
  container=$(store from "$image")
  rootfs=$(store mount "$container")
  key=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
  mapfile -t entrypoint < <(configured "'\n'.join(config['Entrypoint'])")
  mapfile -t health < <(configured "'\n'.join(config['Healthcheck']['Test'][1:])")
  (contained "${entrypoint[@]}") >"$work/server.log" 2>&1 &
  server=$!
  for _ in $(seq 120); do
    kill -0 "$server" 2>/dev/null || fail "the server ended before it was ready"
    ! curl -fsS -o /dev/null "http://127.0.0.1:$port/readyz" 2>/dev/null || return 0
    sleep 0.5
  done
  fail "the server was not ready after 60 s"
}

ask() { curl -fsS -H "Authorization: Bearer $key" "$@"; }

# $1: glyph, $2: drawing. The picture is drawn by the image's own Python.
draw() {
  (contained python -c "import io, sys; from PIL import Image; from kshot.glyphs import draw_glyph
buffer = io.BytesIO(); Image.fromarray(draw_glyph($1, $2)).save(buffer, 'PNG'); sys.stdout.buffer.write(buffer.getvalue())") >"$work/$1-$2.png"
}

check_answers() {
  local pid answer session
  pid=$(first_process)
  [ -n "$pid" ] || fail "the entry point is not PID 1 of its container"
  [ -n "$(find "/proc/$pid/root/proc" -maxdepth 1 -regex '.*/[0-9]+' -uid 10001)" ] || fail "no process of the container is 10001"
  [ -z "$(find "/proc/$pid/root/proc" -maxdepth 1 -regex '.*/[0-9]+' ! -uid 10001)" ] || fail "a process of the container is not 10001"

  say "HEALTHCHECK"
  (contained "${health[@]}") || fail "the HEALTHCHECK command fails on a healthy server"

  say "adapt and classify"
  for glyph in 3 5; do for drawing in 0 1; do draw "$glyph" "$drawing"; done; done
  [ "$(curl -s -o /dev/null -w '%{http_code}' "http://127.0.0.1:$port/v1/models")" = 401 ] || fail "it answers without an API key"
  session=$(ask "http://127.0.0.1:$port/v1/models/omniglot/sessions" -F "support[three]=@$work/3-0.png" -F "support[five]=@$work/5-0.png")
  session=$(python3 -c "import json, sys; print(json.loads(sys.argv[1])['id'])" "$session")
  answer=$(ask "http://127.0.0.1:$port/v1/sessions/$session/classify" -F "queries=@$work/3-1.png" -F "queries=@$work/5-1.png")
  answer=$(python3 -c "import json, sys; print(*(p['label'] for p in json.loads(sys.argv[1])['predictions']))" "$answer")
  [ "$answer" = "three five" ] || fail "expected the labels three and five, got: $answer"
}

stop() {
  say "SIGTERM"
  local code=0
  kill -TERM "$(first_process)"
  wait "$server" || code=$?
  server=
  [ "$code" = 0 ] || fail "SIGTERM to PID 1 ended the server with $code, not 0"
}

install_tools
make_base
lend_package_index
build
check_configuration
start
check_answers
stop
say "the image builds ($(du -sh --apparent-size "$rootfs/opt/kshot" | cut -f1) of packages), answers, runs as 10001, and ends on SIGTERM with 0"
