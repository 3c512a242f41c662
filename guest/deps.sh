#!/bin/bash
# Installs the packages of packages.txt that are missing.
#
#   deps.sh PURPOSE...    for these purposes, as the second column there names them
set -euo pipefail

source "$(dirname "$0")/cache.sh"
list=$(dirname "$0")/../packages.txt

command -v apt-get >/dev/null || fail "this is no Debian: install what packages.txt lists"

# The machine emulator of the other architecture is of no use here.
case $(dpkg --print-architecture) in
amd64) foreign=qemu-system-arm ;;
arm64) foreign=qemu-system-x86 ;;
*) foreign= ;;
esac

wanted=$(awk -v purposes=" $* " -v foreign="$foreign" \
	'!/^#/ && NF && index(purposes, " " $2 " ") && $1 != foreign { print $1 }' "$list" | sort -u)
# dpkg-query fails when it does not know one of them.
installed=$({ dpkg-query -W -f '${db:Status-Status} ${Package}\n' $wanted 2>/dev/null || true; } |
	sed -n 's/^installed //p' | sort -u)
missing=$(comm -23 <(echo "$wanted") <(echo "$installed"))

[[ -n $missing ]] || exit 0

apt() { DEBIAN_FRONTEND=noninteractive apt-get -q -y --no-install-recommends "$@" $missing >&2; }

say "installing" $missing
apt --simulate install &>/dev/null || apt-get -q update >&2
# The lists may name versions that the mirror no longer has.
apt install || { apt-get -q update >&2 && apt install; }
