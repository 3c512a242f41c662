#!/bin/bash
# Builds the tuned guest kernel from Debian's linux-source package and the
# configuration fragments and patches beside this script, and prints the path of the result.
# It is kept in the cache: the same source, fragments, patches and compiler are never built twice.
#
#   tuned.sh            build it if it is not in the cache
#   tuned.sh --cached   build nothing; print nothing if none is in the cache
#
# HYPER_CACHE    the cache directory
# ARCH           x86_64 (default: this machine) or arm64
# CROSS_COMPILE  prefix of a cross compiler, as the kernel's own Makefile takes it
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
source "$here/../cache.sh"
package=linux-source-6.12

arch=${ARCH:-$(uname -m)}
case $arch in
x86_64) image=vmlinux built=vmlinux ;;
aarch64 | arm64) arch=arm64 image=Image built=arch/arm64/boot/Image ;;
*) fail "no tuned kernel for the architecture $arch" ;;
esac

# The name of a build says all that it was made from. What --cached looks for
# is any build of these fragments and patches: the source package and the compiler need not be installed.
fragments=("$here/common.config" "$here/$arch.config")
patches=("$here"/*.patch)
prefix=$cache/kernel/$arch-$(cat "${fragments[@]}" "${patches[@]}" "$0" | sha256sum | cut -c1-12)

if [[ ${1-} == --cached ]]; then
	newest "$prefix"-*/"$image"
	exit
fi

version=$(dpkg-query -W -f '${Version}' "$package" 2>/dev/null) || fail "$package is not installed"
out=$prefix-$version-gcc$("${CROSS_COMPILE-}gcc" -dumpfullversion)

lock "$cache/kernel/$arch.lock"
if [[ -e $out/$image ]]; then
	say "the tuned kernel is in the cache"
	echo "$out/$image"
	exit
fi

work=$(mktemp -d "$cache/kernel/build.XXXXXX")
trap 'rm -rf "$work"' EXIT

say "unpacking /usr/src/$package.tar.xz"
tar -C "$work" -xf "/usr/src/$package.tar.xz"
cat "${patches[@]}" | patch -d "$work/$package" -p1 >&2 || fail "the patches do not fit this source"
mkdir "$work/build"

# Every name and date that would differ from build to build is given here. The
# package version takes the place of the date in "uname -v", as in Debian's own kernels.
unset MAKEFLAGS MFLAGS MAKELEVEL
kmake() {
	make -C "$work/$package" O="$work/build" ARCH="$arch" \
		KBUILD_BUILD_USER=hyper KBUILD_BUILD_HOST=hyper KBUILD_BUILD_VERSION=1 \
		KBUILD_BUILD_TIMESTAMP="Debian $version" \
		DISTRIBUTION_OFFICIAL_BUILD=1 DISTRIBUTOR=Debian DISTRIBUTION_VERSION="$version" "$@"
}

say "configuring"
cat "${fragments[@]}" >"$work/fragment"
kmake -s KCONFIG_ALLCONFIG="$work/fragment" allnoconfig >&2
# What its rules do not allow kconfig drops without a word.
refused=$(grep '^CONFIG_[^=]*=' "$work/fragment" | grep -vxFf "$work/build/.config" || true)
[[ -z $refused ]] || fail "the kernel does not accept:"$'\n'"$refused"
say "$(grep -c '=y$' "$work/build/.config") options are on"

say "compiling with $(nproc) jobs; this takes a while"
start=$SECONDS
kmake -j"$(nproc)" "$image" 2>&1 | tee "$work/log" |
	awk 'NR % 250 == 0 { print "guest: " NR " files"; fflush() }' >&2 ||
	fail "the kernel build failed:"$'\n'"$(tail -n 30 "$work/log")"
say "compiled in $((SECONDS - start)) s"

mkdir "$work/result"
cp "$work/build/.config" "$work/result/config"
cp "$work/build/System.map" "$work/result/"
if [[ $image == vmlinux ]]; then
	"${CROSS_COMPILE-}strip" -s -o "$work/result/$image" "$work/build/$built"
else
	cp "$work/build/$built" "$work/result/$image"
fi
mv "$work/result" "$out"
echo "$out/$image"
