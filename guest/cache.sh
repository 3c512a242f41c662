# What the scripts of this directory share: where the cache is, and how they talk.
# Progress goes to stderr; stdout is for the result.

if [[ -n ${XDG_CACHE_HOME-} ]]; then
	cache=$XDG_CACHE_HOME/hyper
elif [[ $EUID == 0 ]]; then
	cache=/var/cache/hyper
else
	cache=$HOME/.cache/hyper
fi
cache=${HYPER_CACHE:-$cache}

say() { echo "guest: $*" >&2; }

fail() {
	say "$*"
	exit 1
}

# lock FILE waits until this process is the only one that holds FILE.
lock() {
	mkdir -p "$(dirname "$1")"
	exec {lock_fd}>"$1"
	flock -n "$lock_fd" || {
		say "waiting for another build"
		flock "$lock_fd"
	}
}

# newest FILE... prints the one that was changed last; nothing if none exists.
newest() {
	ls -td "$@" 2>/dev/null | head -n1 || true
}
