#!/bin/bash
# Builds a static crun from the distribution's source package and prints its
# path. It is kept in the cache under the version of its source and its compiler.
# Where the source package cannot be had it prints the installed crun instead.
#
# HYPER_CACHE    the cache directory
set -euo pipefail

source "$(dirname "$0")/cache.sh"

# A line is "crun | 1.8.1-1 | http://mirror suite/component arch Packages".
find_source() {
	apt-cache madison crun 2>/dev/null |
		awk -F ' *[|] *' 'NR == 1 { split($3, at, " "); print $2, at[1], at[2] }'
}

prefix=$cache/crun/$(uname -m)-$(sha256sum <"$0" | cut -c1-12)
found=$(find_source)
if [[ -z $found ]]; then
	crun=$(newest "$prefix"-*/crun)
	if [[ -n $crun ]]; then
		echo "$crun"
		exit
	fi
	say "asking apt for its package lists"
	apt-get -q update >&2 || true
	found=$(find_source)
fi
if [[ -z $found ]]; then
	say "apt does not know crun: taking the installed one"
	command -v crun || fail "no crun is installed"
	exit
fi
read -r version mirror suite <<<"$found"
out=$prefix-$version-gcc$(gcc -dumpfullversion)

lock "$cache/crun/lock"
if [[ -e $out/crun ]]; then
	echo "$out/crun"
	exit
fi

work=$(mktemp -d "$cache/crun/build.XXXXXX")
trap 'rm -rf "$work"' EXIT
cd "$work"

# A sources list and package lists of our own: the system's apt stays as it is.
mkdir -p lists/partial
echo "deb-src $mirror ${suite%%/*} ${suite#*/}" >sources.list
source_apt() {
	apt-get -q -o Dir::Etc::SourceList="$work/sources.list" -o Dir::Etc::SourceParts=- \
		-o Dir::State::Lists="$work/lists" -o APT::Sandbox::User=root "$@" >>"$work/log" 2>&1
}

unset MAKEFLAGS MFLAGS MAKELEVEL
build() {
	source_apt update && source_apt source --only-source "crun=$version" || return
	cd crun-*/ || return
	# Debian's static yajl is called yajl_s; gcrypt would be for a cache of seccomp filters;
	# libtool links all statically only when make says so.
	./configure --disable-systemd --disable-criu --disable-dl --disable-shared \
		ac_cv_search_gcry_check_version=no LIBS=-lyajl_s YAJL_LIBS=-lyajl_s \
		CFLAGS="-O2 -ffunction-sections -fdata-sections" >>"$work/log" 2>&1 &&
		make git-version.h >>"$work/log" 2>&1 &&
		make -j"$(nproc)" crun LDFLAGS="-all-static -Wl,--gc-sections" >>"$work/log" 2>&1 &&
		mkdir "$work/result" && strip -s -o "$work/result/crun" crun
}

say "building a static crun $version"
if build; then
	mv "$work/result" "$out"
	echo "$out/crun"
else
	grep -i -m5 'error' "$work/log" >&2 || tail -n 5 "$work/log" >&2
	say "that failed: taking the installed crun"
	command -v crun || fail "no crun is installed"
fi
