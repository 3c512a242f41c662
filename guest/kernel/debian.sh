#!/bin/bash
# Fetches Debian's prebuilt kernel and unpacks it into the cache; nothing is
# installed. Prints the directory, which has boot/ and lib/modules/ as the package has.
#
# HYPER_CACHE    the cache directory
set -euo pipefail

source "$(dirname "$0")/../cache.sh"
meta=linux-image-6.12-$(dpkg --print-architecture)

# The meta package names the one that has the kernel: "Depends: linux-image-6.12.1-amd64 (= 6.12.1-1)".
find_package() {
	apt-cache show --no-all-versions "$meta" 2>/dev/null |
		sed -n 's/^Depends: *\([^ ]*\) (= *\(.*\)).*/\1 \2/p'
}

found=$(find_package)
if [[ -z $found ]]; then
	boot=$(newest "$cache"/debian/*/boot)
	if [[ -n $boot ]]; then
		dirname "$boot"
		exit
	fi
	say "asking apt for its package lists"
	apt-get -q update >&2
	found=$(find_package)
	[[ -n $found ]] || fail "apt does not know $meta"
fi
read -r package version <<<"$found"
out=$cache/debian/${package}_$version

lock "$cache/debian/lock"
if [[ ! -d $out ]]; then
	work=$(mktemp -d "$cache/debian/unpack.XXXXXX")
	trap 'rm -rf "$work"' EXIT
	say "fetching $package $version"
	(cd "$work" && apt-get -q -o APT::Sandbox::User=root download "$package=$version" >&2)
	mkdir "$work/root"
	dpkg-deb -x "$work"/*.deb "$work/root"
	mv "$work/root" "$out"
fi
echo "$out"
