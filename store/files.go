package store

// The files of a container's run directory. docs/run-directory.md tells the same to the reader of a host.
const (
	// Config is a copy of the config.json that create read: what was checked is what runs, and hooks come from it.
	Config = "config.json"

	// StateFile is what the verbs know about the container when its keeper does not answer: a State as JSON.
	StateFile = "state.json"

	// Socket is where the keeper listens for the other verbs. Use Listen and Dial: its path is often too long.
	Socket = "keeper.sock"

	// ConsoleLog is the newest part of what the guest's kernel wrote to its console.
	ConsoleLog = "console.log"

	// ConsoleLogOld is the part before that. Together they are no larger than console_kib.
	ConsoleLogOld = "console.log.1"

	// KeeperLog is what the keeper had to say after create had returned.
	KeeperLog = "keeper.log"

	// Share is the directory that the guest sees. What it shows is bound into it in the keeper's mount namespace
	// only: from the host's side there are empty directories.
	Share = "share"
)

// DefaultRoot is the run directory of all containers when --root names none. It is a tmpfs and gone after a boot.
const DefaultRoot = "/run/hyper"

const (
	// maxFile bounds what is read from a run directory, and what is written there.
	maxFile = 16 << 20

	directoryMode = 0o700
	fileMode      = 0o600
)
