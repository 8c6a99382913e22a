# shellcheck shell=bash
# What the scripts share; `source` it first. Every step says what it does before doing it; a failed
# step says what failed, where its log is and what to do.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
LOGS=$ROOT/build/logs
VENV=$ROOT/.venv
DRY_RUN=${DRY_RUN:-0}
cd "$ROOT"
# Tools that setup had to take from pip (a newer cmake, say) come first.
[[ ! -x $VENV/bin/cmake ]] || PATH=$VENV/bin:$PATH

if [[ -t 1 ]]; then
  BOLD=$'\e[1m' RED=$'\e[31m' PLAIN=$'\e[0m'
else
  BOLD='' RED='' PLAIN=''
fi

# usage SCRIPT: the comment block at the head of a script is its help.
usage() { awk 'NR > 1 { if (!/^#/) exit; sub(/^# ?/, ""); print }' "$1"; }

say() { printf '%s\n' "$*"; }
step() { printf '%s==> %s%s\n' "$BOLD" "$*" "$PLAIN"; }
warn() { printf 'warning: %s\n' "$*" >&2; }

# die WHAT [WHAT TO DO]
die() {
  printf '%serror: %s%s\n' "$RED" "$1" "$PLAIN" >&2
  [[ -z ${2:-} ]] || printf '  help: %s\n' "$2" >&2
  exit 1
}

# failed WHAT LOG WHAT-TO-DO: the end of a script whose step failed; shows the end of the log.
failed() {
  if [[ -s $2 ]]; then
    printf '%s\n' "--- the last lines of ${2#"$ROOT"/}" >&2
    tail -n 15 "$2" >&2
    printf '%s\n' '---' >&2
  fi
  printf '%serror: %s%s\n' "$RED" "$1" "$PLAIN" >&2
  printf '  log:  %s\n  help: %s\n' "${2#"$ROOT"/}" "$3" >&2
  exit 1
}

# logged NAME WHAT-TO-DO COMMAND...: runs a command; its output goes to build/logs/NAME.log through $SHOW.
logged() {
  local name=$1 help=$2 log=$LOGS/$1.log
  shift 2
  if [[ $DRY_RUN == 1 ]]; then
    say "    would run: $*"
    return
  fi
  mkdir -p "$LOGS"
  # pipefail is on: what shows the output does not hide the status of the command.
  "$@" 2>&1 </dev/null | $SHOW "$log" || failed "$name failed: $*" "$log" "$help"
}
to_file() { cat >"$1"; }
quietly() { SHOW='to_file' logged "$@"; }
aloud() { SHOW='tee' logged "$@"; }  # its output is also shown

have() { command -v "$1" >/dev/null 2>&1; }

# How many compilers may run at once: one a processor, and 2 GiB of memory for each.
compile_jobs() {
  local count memory_gib
  count=$(nproc)
  memory_gib=$(awk '/^MemTotal/ {print int($2 / 1048576)}' /proc/meminfo 2>/dev/null || echo 4)
  ((count <= memory_gib / 2)) || count=$((memory_gib / 2))
  ((count >= 1)) || count=1
  echo "$count"
}

# python_with_torch: prints the python whose torch is used, as cmake/EspalierTorch.cmake does.
python_with_torch() {
  local python
  for python in python3 "$VENV/bin/python"; do
    # Looked for, not imported: that takes milliseconds instead of seconds.
    if "$python" -c 'import importlib.util as u, sys; sys.exit(u.find_spec("torch") is None)' \
      >/dev/null 2>&1; then
      echo "$python"
      return 0
    fi
  done
  return 1
}

# missing_packages NAME...: prints those that dpkg does not have.
missing_packages() {
  local installed package missing=()
  installed=$(dpkg-query -W -f='${db:Status-Status} ${Package}\n' "$@" 2>/dev/null || true)
  for package in "$@"; do
    grep -qx "installed $package" <<<"$installed" || missing+=("$package")
  done
  echo "${missing[*]}"
}

# install_packages NAME...: by apt, as root or with sudo; installs nothing that is there.
install_packages() {
  local missing sudo=()
  have dpkg-query || die "this is no Debian or Ubuntu: dpkg is missing" \
    "install what corresponds to these packages, or unpack a folder made by scripts/bundle-deps: $*"
  missing=$(missing_packages "$@")
  [[ -n $missing ]] || return 0
  step "Installing system packages: $missing"
  if [[ $(id -u) != 0 ]]; then
    have sudo || [[ $DRY_RUN == 1 ]] || die "packages are missing, and this is neither root nor sudo" \
      "ask an administrator for: apt-get install $missing"
    sudo=(sudo)
  fi
  local help="check the network and the package sources (/etc/apt), then run the same command again"
  quietly apt-update "$help" "${sudo[@]}" apt-get update
  # shellcheck disable=SC2086  # a list of names
  quietly apt-install "$help" "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y --no-install-recommends $missing
}
