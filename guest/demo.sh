#!/bin/bash
# Runs one container in a virtual machine and says how long that took.
#
#   demo.sh BUILD    the build directory; bin/hyper is beside it
set -euo pipefail

build=$(cd "$1" && pwd)
hyper=$build/../bin/hyper
bundle=$build/demo

say() { echo; echo "demo: $*"; }

say "an OCI bundle in $bundle: busybox and its config.json"
rm -rf "$bundle"
mkdir -p "$bundle/rootfs/bin"
cp /bin/busybox "$bundle/rootfs/bin/"
for applet in $(/bin/busybox --list); do
	[[ $applet == busybox ]] || ln -s busybox "$bundle/rootfs/bin/$applet"
done
"$hyper" spec --bundle "$bundle"
python3 - "$bundle/config.json" <<'END'
import json, sys
path = sys.argv[1]
with open(path) as f:
    spec = json.load(f)
spec["process"]["terminal"] = False
spec["process"]["args"] = ["sh", "-c", "echo 'Hello from a container.'; echo \"My kernel: $(uname -a)\""]
with open(path, "w") as f:
    json.dump(spec, f, indent=2)
END

echo "demo: this machine's kernel is $(uname -sr)"
say "hyper run"
start=$EPOCHREALTIME
"$hyper" --config "$build/config.toml" run --bundle "$bundle" "demo-$$"
took=$((${EPOCHREALTIME/./} - ${start/./}))
say "done: boot, container and clean-up took $((took / 1000)) ms"
