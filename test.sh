#!/usr/bin/env bash
# Everything that must hold before a change lands: formatting, lints, tests.
#
#   ./test.sh           install what is missing (Debian packages, says what and why), then check everything
#   ./test.sh --quick   no installing, no lints: the tests alone
#   ./test.sh --help
#
# Tests start what they need (daemons, a browser) themselves, on free ports, and stop it. What cannot be installed is
# a failure when CI=true and a clear skip elsewhere.
set -euo pipefail
cd "$(dirname "$0")"

quick=no
for arg in "$@"; do
  case "$arg" in
    --quick) quick=yes ;;
    -h | --help) sed -n '2,8s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) echo "test.sh: unknown option '$arg'"; echo "  try: ./test.sh --help"; exit 2 ;;
  esac
done

step() { printf '\n== %s\n' "$*"; }
missing=()
need() { command -v "$1" >/dev/null 2>&1 || missing+=("$2"); }

if [ "$quick" = no ]; then
  step "what the tests need"
  need cc build-essential        # C compiler: ring and aws-lc build their assembly with it
  need curl curl                 # plays by HTTP Range requests, as any player would
  need b3sum b3sum               # the item file on disk must hash to its id for a stranger's tool
  need chromium chromium         # plays the film in a real <video>
  need chromedriver chromium-driver
  need strace strace             # sees that replies leave only after the journal is on the disk
  need faketime faketime         # sets a keyserver's clock back
  need python3 python3-venv      # runs localstripe, a fake Stripe of someone else's making
  if [ ${#missing[@]} -gt 0 ]; then
    as_root=()
    [ "$(id -u)" = 0 ] || as_root=(sudo -n)
    echo "installing: ${missing[*]} (see the comments in test.sh for why)"
    if command -v apt-get >/dev/null 2>&1 && "${as_root[@]}" true 2>/dev/null; then
      "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get update -qq
      "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
    else
      echo "cannot install here (no apt-get, or neither root nor password-less sudo)"
      echo "  try: sudo apt-get install ${missing[*]}"
      [ "${CI:-}" = true ] && exit 1
      echo "  going on: tests that need them are skipped and say so"
    fi
  else
    echo "all there"
  fi
  # In the cache folder, where the tests of the keyserver look for it.
  venv="${XDG_CACHE_HOME:-$HOME/.cache}/reelswarm/localstripe-venv"
  if [ ! -x "$venv/bin/localstripe" ]; then
    echo "installing: localstripe 1.15.10 from PyPI, in $venv"
    if ! { python3 -m venv "$venv" && "$venv/bin/pip" install --quiet --disable-pip-version-check localstripe==1.15.10; }; then
      echo "cannot install localstripe"
      echo "  try: $venv/bin/pip install localstripe==1.15.10"
      [ "${CI:-}" = true ] && exit 1
      echo "  going on: tests that need it are skipped and say so"
    fi
  fi
  command -v cargo >/dev/null 2>&1 || { echo "cargo is missing: install Rust 1.90 or newer from https://rustup.rs"; exit 1; }

  step "formatting"
  cargo fmt --all --check

  step "lints"
  cargo clippy --locked --workspace --all-targets -- -D warnings
  # Alone, so that the purity rules of swarm-proto/clippy.toml are those that apply.
  (cd swarm-proto && cargo clippy --locked --all-targets -- -D warnings)
fi

step "tests"
if cargo nextest --version >/dev/null 2>&1; then
  cargo nextest run --locked --workspace --no-fail-fast
else
  cargo test --locked --workspace --no-fail-fast --lib --bins --tests
fi
cargo test --locked --workspace --doc

step "all passed"
