#!/bin/bash
# Builds the guest images of the build tree:
#
#   BUILD/guest/debian/{kernel,initrd}   Debian's prebuilt kernel
#   BUILD/guest/tuned/{kernel,initrd}    our own kernel, where one is in the cache
#   BUILD/guest/default                  a link to the preferred one of them
#   BUILD/{config,debian,tuned}.toml     hyper's settings for each
#
#   build.sh BUILD    the build directory; the agent is in it already
#
# GO, HYPER_CACHE   the go command, the cache directory
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
source "$here/cache.sh"
build=$(cd "$1" && pwd)

crun=$("$here/crun.sh")
debian=$("$here/kernel/debian.sh")
tuned=$("$here/kernel/tuned.sh" --cached)

(cd "$here" && "${GO:-go}" build -o "$build/mkguest" ./mkguest)

image() {
	local kind=$1 kernel=$2
	shift 2
	say "making the $kind guest image"
	"$build/mkguest" -agent "$build/hyper-agent" -crun "$crun" -kernel "$kernel" -out "$build/guest/$kind" "$@"
	settings "$kind" "$kind"
}

# settings FILE IMAGE writes a configuration file for hyper.
settings() {
	cat >"$build/$1.toml" <<-END
		kernel = "$build/guest/$2/kernel"
		initrd = "$build/guest/$2/initrd"
	END
}

image debian "$debian"/boot/vmlinuz-* -modules "$debian"/lib/modules/*
preferred=debian
if [[ -n $tuned ]]; then
	image tuned "$tuned"
	preferred=tuned
else
	rm -rf "$build/guest/tuned" "$build/tuned.toml"
fi
ln -sfn "$preferred" "$build/guest/default"
settings config default
